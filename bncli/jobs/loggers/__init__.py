"""``bncli train --log``: a run's events as they come, for the tools that people watch runs with.

::

    logger                the protocol, and the run as loggers see it
    registry              name -> module and library
    run_loggers           hands events to all loggers of a run; one that fails is left out
    tensorboard_events    event files in OUT/logs/tensorboard
    csv_files             tables in OUT/logs/csv
    wandb_run, trackio_run, mlflow_run

A logger consumes what the training yields, and the training knows none. Only those that are asked for are imported.
"""
