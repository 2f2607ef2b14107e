"""The proof of a fold: the original and the folded network compared on real inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from bncli.folding.affine import Array
from bncli.folding.trace.graph import DType, Pytree, Tensor

Network = Callable[[Tensor], Pytree]

# dtype of the outputs -> the largest difference, relative to the largest output, that rounding explains:
# about 2**10 units in the last place in float32 (hundreds of layers, each rounding anew), 2**5 in the short types.
TOLERANCES: dict[str, float] = {
    "bfloat16": 2**-8 * 2**5,
    "float16": 2**-11 * 2**5,
    "float32": 1e-4,
    "float64": 1e-9,
}


@dataclass(frozen=True)
class Verification:
    """The distance of the folded network from the original one.

    Args:
        num_examples: the examples compared.
        max_abs_error: the largest difference of two outputs.
        max_rel_error: the same, relative to the largest magnitude of the original's outputs.
        top1_agreement: the fraction of examples with the same largest output; 1.0 if the outputs are no vectors.
        tolerance: the limit for `max_rel_error`; `passed`: True if it is at or below that.
    """

    num_examples: int
    max_abs_error: float
    max_rel_error: float
    top1_agreement: float
    tolerance: float
    passed: bool


def verify(
    original: Network,
    folded: Network,
    batches: Iterable[Tensor],
    *,
    tolerance: float | None = None,
) -> Verification:
    """Compare two networks on batches of inputs, one batch at a time.

    Args:
        original: `x -> outputs` (any pytree of arrays); `folded`: the same after folding.
        batches: inputs, batch axis first; no batch at all proves nothing and does not pass.
        tolerance: the largest relative error that passes; by default, the rounding of the outputs' dtype.
    """
    tally = _Tally()
    for x in batches:
        tally.add(len(x), jax.device_get(original(x)), jax.device_get(folded(x)))
    allowed = tally.tolerance if tolerance is None else tolerance
    relative = tally.difference / tally.magnitude if tally.magnitude else tally.difference
    return Verification(
        num_examples=tally.examples,
        max_abs_error=tally.difference,
        max_rel_error=relative,
        top1_agreement=tally.agreeing / tally.examples if tally.examples else 0.0,
        tolerance=allowed,
        passed=bool(tally.examples) and relative <= allowed,  # NaN compares false: not passed
    )


class _Tally:
    """The comparison so far."""

    def __init__(self) -> None:
        self.examples = 0
        self.agreeing = 0
        self.difference = 0.0
        self.magnitude = 0.0
        self.tolerance = 0.0

    def add(self, examples: int, original: Pytree, folded: Pytree) -> None:
        """Compare the outputs for one batch."""
        pairs = list(zip(jax.tree_util.tree_leaves(original), jax.tree_util.tree_leaves(folded), strict=True))
        self.examples += examples
        for mine, theirs in pairs:
            a: Array = np.asarray(mine, np.float64)
            b: Array = np.asarray(theirs, np.float64)
            with np.errstate(invalid="ignore"):  # inf − inf is NaN, which does not pass
                self.difference = _larger(self.difference, np.abs(a - b))
            self.magnitude = _larger(self.magnitude, np.abs(a))
            self.tolerance = max(self.tolerance, default_tolerance(mine.dtype))
        self.agreeing += agreeing(examples, *pairs[0]) if pairs else examples


def default_tolerance(dtype: DType) -> float:
    """The relative error that rounding explains; 0.0 for integers."""
    return TOLERANCES.get(jnp.dtype(dtype).name, 0.0)


def agreeing(examples: int, original: Pytree, folded: Pytree) -> int:
    """The number of examples with the same largest logit; all of them if the outputs are no logits `[B, classes]`."""
    if np.ndim(original) != 2 or len(original) != examples:
        return examples
    return int(np.sum(np.argmax(original, axis=1) == np.argmax(folded, axis=1)))


def _larger(so_far: float, values: Array) -> float:
    """The maximum, or NaN if anything is NaN."""
    return float(np.max(values, initial=so_far)) if not np.isnan(so_far) else so_far
