"""``bncli sweep``: a study of many trainings, which any number of processes and hosts carry on together.

Read in this order::

    sweep.py     the entry: trials, one after the other, until the study has enough
    trial.py     one trial: an ordinary training, whose epochs are reported
    study.py     the study on disk: the next trial and its settings, and the verdicts; the only importer of Optuna
    result.py    the result
"""

from bncli.jobs.sweep.sweep import sweep

__all__ = ["sweep"]
