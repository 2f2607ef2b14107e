"""The heap keeps what it was told to, and holds a step's temporary memory once."""

import json
import subprocess
import sys

import pytest

from bncli.process import heap

pytestmark = pytest.mark.skipif(not heap.is_glibc(), reason="another C library")

FAULTS = """
import json, resource
import numpy as np
from bncli.process import heap
heap.keep_freed_memory()
faults = []
for _ in range(3):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(1 << 23).sum()  # 64 MiB
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(json.dumps(faults))
"""

MOVES = """
import json
from pathlib import Path
import numpy as np
from bncli.process import heap
heap.keep_freed_memory()

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 >> 20

def block(mebibytes):
    return np.ones(mebibytes << 20, np.uint8)

first, pin = block(65), block(1)
del first
place = heap.Place(64 << 20)
place.prepare()
again, seen = block(64), {"step": resident()}
del again
place.prepare()
seen["same place"] = resident()
taken = block(32)  # from the hole
place.prepare()
seen["elsewhere"] = resident()
for _ in range(400):  # to and fro
    del taken
    place.prepare()
    taken = block(32)
    place.prepare()
seen["trims"], seen["steps"] = place._trims, place._steps
print(json.dumps(seen))
"""


def run_python(program):
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def test_memory_that_was_freed_is_not_asked_for_again():
    first, *others = run_python(FAULTS)
    assert max(others) < first / 10


def test_the_pages_of_a_hole_go_back_where_the_next_step_will_lie_elsewhere():
    seen = run_python(MOVES)
    assert seen["same place"] == pytest.approx(seen["step"], abs=2)
    assert seen["elsewhere"] < seen["step"] - 24  # 32 of the 64 MiB are in use again


def test_a_step_that_moves_each_time_does_not_cost_a_trim_each_time():
    seen = run_python(MOVES)
    assert 3 < seen["trims"] <= 3 + seen["steps"] / 50 + 1
