"""Claims about Batch Normalization as experiments: ``bncli study``, and ``bncli.study`` in Python.

Read in this order::

    experiment.py      the form of an experiment: cells, measurement, conclusion; what a figure is
    experiments/       the experiments, one file each
    network.py         small networks with any normalization, as functions of arrays
    training.py        many of them trained by one program
    instruments.py     what the papers measure: covariate shift, smoothness, predictiveness, percentiles
    statistics.py      intervals over seeds, and the rule for verdicts
    cells.py           the results on disk: one file a cell, with checksum and lock
    driver.py          from names to a report, by one process or several
    drawing.py         figures, by Matplotlib

A cell is a pure function of its settings and the data. So a study that is stopped goes on, several processes share one
directory, and nothing is measured twice.
"""

from bncli.studies.driver import Progress, Shard, study
from bncli.studies.experiments import experiments
from bncli.studies.report import StudyReport

__all__ = ["Progress", "Shard", "StudyReport", "experiments", "study"]
