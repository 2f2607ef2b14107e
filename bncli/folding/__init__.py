"""Fold Batch Normalization into the layers around it, in any JAX function.

The map of this room, in the order of work:

========== ==========================================================================================
graph      a network as a list of operations, traced with `jax.make_jaxpr`
known      what can be computed before any example is seen, in float64
affine     y = x·scale + shift, the only thing that is ever moved
chains     where a trace multiplies and adds known numbers: BN, biases
checks     networks that must not be folded
rules      primitive -> its identity in both directions, or the reason why there is none
draft      the trace and the edits made so far; push: moving one affine through it
plan       which BN goes which way; wording: what a user calls the operations in the way
finish     the new arrays; recipe: how to use them at any batch size
core       `fold`; report: what became of each BN; verify: the proof
export     the folded network as ONNX, safetensors, StableHLO
========== ==========================================================================================
"""

from __future__ import annotations

from bncli.folding.core import Folded, fold
from bncli.folding.report import FoldReport, NormReport
from bncli.folding.verify import Verification, verify

__all__ = ["FoldReport", "Folded", "NormReport", "Verification", "fold", "verify"]
