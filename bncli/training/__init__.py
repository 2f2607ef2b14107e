"""Training: one pytree of state, one step function, one loop that drives it.

Read in this order::

    run.py          the entry: make a trainer, start or resume it, score the test split at the end
    loop.py         the training loop: batches to the step, epochs to the validation split, saves to the disk
    execution.py    a batch's way to the step on the devices
    steps.py        the training step, a pure function
    state.py        the state that a step reads and writes
    pretrained.py   the same with weights to start from
    optimizer.py    schedules and optimizers, all of them optax's
    tuning.py       fine-tuning: the arrays that each epoch trains, and how fast they learn
    programs.py     the compiled programs, shared between like trainings
    evaluation.py   the variables that are scored and saved, and their score
    statistics.py   BN statistics of weights that have none of their own
    recovery.py     after a step that was not finite: skip it, go back, or end the run
    divergence.py   the cause of such a step
    saving.py       saves in the background, and restoring them
    run_log.py      metrics.jsonl and layers.jsonl
    progress.py     the events and the progress of a run
    watch.py        signs that a run will not end well
    observation.py  percentiles of the layers' outputs and statistics over the epochs
    result.py       the result of a run
"""
