"""Checks that the installed jaxlib computes the right numbers on this machine.

Some releases did not: jaxlib 0.10.2 sums squares 0.8 % too low under ``jit`` (jax#39103) and ends the process in
another sum (jax#40412). A network trained by such a jaxlib is only a little worse, so nobody notices. Read in this
order::

    reference.py   a convolution and BN with their gradients, in NumPy and float64
    checks.py      the computations and their expected results: QUICK before training, FULL for `bncli doctor`
    collectives.py what the devices of several processes compute together: for `bncli doctor --distributed`
    apart.py       checks in a process of their own, which may crash
    remembered.py  the quick checks that passed are not repeated for the same versions and hardware
    report.py      before training: refuse or continue; for `bncli doctor`: every outcome
"""

from bncli.selftest.checks import FULL, QUICK, Check, Outcome, run_check
from bncli.selftest.report import check_before_training, examine, examine_collectives

__all__ = ["FULL", "QUICK", "Check", "Outcome", "check_before_training", "examine", "examine_collectives", "run_check"]
