"""The speed of networks: cold starts in processes of their own, warm calls side by side in one process.

Read in this order::

    networks.py     a checkpoint -> a function from images on the host to logits on the host
    cold.py         a fresh process: imports, opening, the first call at each batch size, memory
    warm.py         the networks in turn, round by round
    disturbance.py  the load of other programs
    run.py          the result of a comparison, and the fastest network
"""

from bncli.jobs.bench.cold import ColdStart, cold_starts, measure_cold_start
from bncli.jobs.bench.networks import (
    Kind,
    OpenNetwork,
    Target,
    common_target,
    open_network,
    random_images,
    read_target,
)
from bncli.jobs.bench.run import BatchTiming, BenchResult, Disturbance, Fastest, NetworkTiming, bench
from bncli.jobs.bench.warm import Rounds, Spread, time_rounds

__all__ = [
    "BatchTiming",
    "BenchResult",
    "ColdStart",
    "Disturbance",
    "Fastest",
    "Kind",
    "NetworkTiming",
    "OpenNetwork",
    "Rounds",
    "Spread",
    "Target",
    "bench",
    "cold_starts",
    "common_target",
    "measure_cold_start",
    "open_network",
    "random_images",
    "read_target",
    "time_rounds",
]
