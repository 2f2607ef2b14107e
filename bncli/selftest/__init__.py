"""Whether the installed jaxlib computes what it should, on this machine.

Some releases did not: jaxlib 0.10.2 sums squares 0.8 % too low under ``jit`` (jax#39103) and ends the process in
another sum (jax#40412). A network trained by such a jaxlib looks merely a little worse. In this order::

    reference.py  a convolution and BN with their gradients, in NumPy and float64
    checks.py     what is computed by jaxlib and compared: QUICK before training, FULL by `bncli doctor`
    apart.py      checks in a process of their own, which may crash
    memory.py     a quick form that passed is not run again for the same versions and hardware
    report.py     before training: refuse or go on; for `bncli doctor`: everything
"""

from bncli.selftest.checks import FULL, QUICK, Check, Outcome, run_check
from bncli.selftest.report import check_before_training, examine

__all__ = ["FULL", "QUICK", "Check", "Outcome", "check_before_training", "examine", "run_check"]
