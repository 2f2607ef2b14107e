"""The heap keeps freed memory, and holds a step's temporary memory once."""

import json
import platform
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
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


# A step with about 160 MiB of temporary memory and little to compute: 12 activations of 16 MiB, 8 of them kept.
STEPS = """
import json
from pathlib import Path
from bncli.process import configure, heap
configure.configure()
import jax, jax.numpy as jnp

def kib(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name))

def loss(kernels, x):
    for kernel in kernels:
        x = jnp.tanh(x @ kernel)
    return (x * x).mean()

@jax.jit
def step(kernels, x):
    return jax.tree.map(lambda kernel, grad: kernel - grad, kernels, jax.grad(loss)(kernels, x))

kernels, x = [jnp.eye(64)] * 8, jnp.ones((1 << 16, 64))
compiled = step.lower(kernels, x).compile()
placed = heap.in_one_place(compiled, compiled)
kept = []
for _ in range(12):
    before = kib("VmRSS") if not kept else before
    kernels = placed(kernels, x)
    kept.append(bytearray(1 << 16))  # as a loop keeps numbers and objects
plan = compiled.memory_analysis().temp_size_in_bytes
print(json.dumps({"plan": plan, "grown": (kib("VmHWM") - before) * 1024}))
"""


@pytest.mark.broad
def test_the_steps_temporary_memory_is_held_once():
    seen = run_python(STEPS)
    assert seen["plan"] > heap._MIN_PLACED_BYTES
    assert seen["grown"] < 1.5 * seen["plan"]


@pytest.mark.parametrize(
    ("libc", "places"),
    [(("glibc", "2.36"), True), (("glibc", "2.39"), False), (("glibc", "3.0"), False), (("", ""), False)],
)
def test_only_an_older_glibc_needs_a_place(monkeypatch, libc, places):
    step = jax.jit(lambda x: x @ x.T).lower(jnp.ones((8, 8))).compile()
    monkeypatch.setattr(heap, "_MIN_PLACED_BYTES", 0)
    monkeypatch.setattr(platform, "libc_ver", lambda: libc)
    placed = heap.in_one_place(step, step)
    assert (placed is not step) == places
    np.testing.assert_array_equal(placed(jnp.ones((8, 8))), np.full((8, 8), 8.0))


def test_a_small_step_lies_anywhere(monkeypatch):
    step = jax.jit(lambda x: x + 1).lower(1.0).compile()
    monkeypatch.setattr(platform, "libc_ver", lambda: ("glibc", "2.36"))
    assert heap.in_one_place(step, step) is step
