"""Fold Batch Normalization into the layers around it, in any JAX function.

The map of this room, in the order of work:

========== ==========================================================================================
trace      graph: a network as a list of operations, traced with `jax.make_jaxpr`;
           constants: the values that need no input, in float64; bodies: the bodies of scans
affine     y = x·scale + shift, the only thing that is ever moved
primitives the operations the folder knows, one family a file: values, identities, reasons
search     statistics: which variables are running statistics; chains: the runs of operations that are
           one affine; propagate: one affine through the network; search: which BN goes which way
rewrite    edits: what a fold changes; versions: the edits of all iterations of a loop; materialize: the new
           arrays; program: how to run with them
report     rows: the outcome for each BN layer; reasons: the sentences in it
fold       the public function; folded: what it returns; checks: networks that must not be folded
verify     two networks compared; proof: the comparison that every fold brings along
prune      channels that pass nothing on, removed from the folded network
export     the folded network as ONNX, safetensors, StableHLO
========== ==========================================================================================
"""

from __future__ import annotations

from bncli.folding.checks import NothingToFoldWarning
from bncli.folding.fold import fold
from bncli.folding.folded import Folded
from bncli.folding.report.rows import FoldReport, NormReport
from bncli.folding.search.statistics import Role
from bncli.folding.verify import Verification, verify

__all__ = ["FoldReport", "Folded", "NormReport", "NothingToFoldWarning", "Role", "Verification", "fold", "verify"]
