"""Checks that the devices of all processes compute together what one would compute alone.

Large arrays are checked too: gloo, the library behind the collectives of a CPU, has computed wrong sums for them
(jax#40830: ``psum_scatter`` in chunks of 4 MiB, which bncli does not use).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from bncli.process import distributed
from bncli.process.mesh import fetch, make_mesh, put_rows, replicated
from bncli.selftest.checks import Check, Pairs

# float32 numbers of each device: one, and around the chunks of 4 MiB.
_SIZES = {"one number": 1, "4 MiB": 1 << 20, "more than 4 MiB": (1 << 20) + 1, "16 MiB": 1 << 22}
# A statistic like BN's, [B, C].
_BATCH, _CHANNELS = 64, 32


def _sums() -> Pairs:
    """All-reduce: whole numbers, whose sum is exact in float32."""
    found = {}
    for place, size in _SIZES.items():
        rows = _rows(size)
        found[f"the sum of {place}"] = (_together(lambda x: x.sum(axis=0), rows), rows.sum(axis=0))
    return found


def _copies() -> Pairs:
    """All-gather."""
    found = {}
    for place, size in _SIZES.items():
        rows = _rows(size)
        found[f"the copy of {place}"] = (_together(lambda x: x, rows), rows)
    return found


def _statistics() -> Pairs:
    """Mean and variance over the batch of all devices."""
    rows = np.random.default_rng(0).normal(3, 2, (_BATCH * make_mesh().size, _CHANNELS)).astype(np.float32)
    mean, var = _together(lambda x: jnp.stack([x.mean(axis=0), x.var(axis=0)]), rows)
    return {"the mean": (mean, rows.mean(axis=0)), "the variance": (var, rows.var(axis=0))}


def _rows(size: int) -> np.ndarray:
    """Other whole numbers for each device."""
    devices = np.arange(make_mesh().size)[:, None]
    rows: np.ndarray = ((np.arange(size) % 251)[None] + 7 * devices).astype(np.float32)
    return rows


def _together(function: Callable[[jax.Array], jax.Array], rows: np.ndarray) -> np.ndarray:
    mesh = make_mesh()
    program = distributed.InStep(jax.jit(function, out_shardings=replicated(mesh)))
    outputs: np.ndarray = fetch(program(put_rows(rows, mesh)))
    return outputs


COLLECTIVES = (
    Check("all-reduce over the devices of all processes", _sums, 1e-7),
    Check("all-gather", _copies, 1e-7),
    Check("BN statistics of the global batch", _statistics, 1e-5),
)
