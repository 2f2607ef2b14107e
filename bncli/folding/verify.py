"""The proof of a fold: the original and the folded network compared on the same inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from bncli.folding.affine import Array
from bncli.folding.trace.graph import DType, Pytree, Tensor

Network: TypeAlias = Callable[[Tensor], Pytree]
Status: TypeAlias = Literal["proved", "not proved", "failed"]

# dtype of the outputs -> the largest difference, relative to the largest output, that rounding explains:
# about 2**10 units in the last place in float32 (hundreds of layers, each rounding anew), 2**4 in bfloat16 (of which
# ResNet-20 with random statistics takes 2.6), 2**5 in float16.
TOLERANCES: dict[str, float] = {
    "bfloat16": 2**-8 * 2**4,
    "float16": 2**-11 * 2**5,
    "float32": 1e-4,
    "float64": 1e-9,
}
# An array shows a fold if it changes from example to example by more than this fraction of the rounding that its dtype
# explains (a saturated output moves by one unit at most),
NOISE = 1 / 16
# and if the error is small beside that change too: this many times the tolerance, and never above a half.
SIGNAL = 10.0
LARGEST = 0.5


@dataclass(frozen=True)
class Verification:
    """The distance of the folded network from the original one.

    Args:
        num_examples: the examples compared.
        max_abs_error: the largest difference of two outputs.
        max_rel_error: the largest difference in one output array, relative to the original's largest number in it.
        top1_agreement: the fraction of examples with the same largest output; 1.0 if the outputs are no vectors.
        tolerance: the limit for `max_rel_error`; `passed`: True if the status is "proved".
        status: "failed" if an error is above its limit; "not proved" if the errors are small, but the numbers compared
            would hardly change if the fold were wrong: they are all zero, or do not depend on the input.
        note: what was compared other than the outputs, or the reason why nothing is proved; None for neither.
    """

    num_examples: int
    max_abs_error: float
    max_rel_error: float
    top1_agreement: float
    tolerance: float
    passed: bool
    status: Status
    note: str | None = None


@dataclass(frozen=True)
class Match:
    """The comparison of one array of both networks over all batches.

    Args:
        difference: the largest difference of two numbers; NaN if one of them is NaN.
        magnitude: the original's largest number.
        spread: the largest change of a number from one example, or one batch, to another.
        rounding: the relative error that the dtype explains; `tolerance`: the one that is allowed.
        sound: True if the original's numbers have no NaN among them.
    """

    difference: float
    magnitude: float
    spread: float
    rounding: float
    tolerance: float
    sound: bool

    @property
    def relative(self) -> float:
        """The largest difference relative to the largest number; the difference itself if all numbers are zero."""
        return self.difference / self.magnitude if self.magnitude else self.difference

    @property
    def agrees(self) -> bool:
        """True if the error is within the tolerance; NaN is not."""
        return self.relative <= self.tolerance

    @property
    def follows(self) -> bool:
        """True if the error is small beside the change from one example to another."""
        return self.difference <= min(SIGNAL * self.tolerance, LARGEST) * self.spread

    @property
    def tells(self) -> bool:
        """True if the array agrees, and would not if the fold were wrong."""
        return self.agrees and self.follows and self.spread > NOISE * self.rounding * self.magnitude

    @property
    def differs(self) -> bool:
        """True if the error is large by either measure: a fold is wrong, whatever the array is used for."""
        return self.sound and not self.agrees and not self.follows


@dataclass(frozen=True)
class Comparison:
    """The comparison of two networks: one match for each output array."""

    num_examples: int
    top1_agreement: float
    outputs: tuple[Match, ...]

    def verification(self, status: Status, note: str | None = None, inside: Iterable[Match] = ()) -> Verification:
        """The result with this status; its errors are those of the worst array compared."""
        compared = [*self.outputs, *inside]
        worst = max(compared, key=_badness, default=Match(0.0, 0.0, 0.0, 0.0, 0.0, sound=True))
        return Verification(
            num_examples=self.num_examples,
            max_abs_error=_largest(match.difference for match in compared),
            max_rel_error=worst.relative,
            top1_agreement=self.top1_agreement,
            tolerance=worst.tolerance,
            passed=status == "proved",
            status=status,
            note=note,
        )


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
        tolerance: the largest relative error that passes; by default, the rounding of each output's dtype.
    """
    return outcome(compare(((len(x), original(x), folded(x)) for x in batches), tolerance=tolerance))


def outcome(comparison: Comparison) -> Verification:
    """The result from the outputs alone."""
    if not all(match.agrees or not match.sound for match in comparison.outputs):
        return comparison.verification("failed")
    if any(match.tells for match in comparison.outputs):
        return comparison.verification("proved")
    return comparison.verification("not proved", _unproved(comparison))


def _unproved(comparison: Comparison) -> str:
    if not comparison.num_examples:
        return "no example was compared"
    if not all(match.sound for match in comparison.outputs):
        return "the original's outputs are not finite"
    return "the outputs do not vary with the input"


def compare(
    pairs: Iterable[tuple[int, Pytree, Pytree]], *, tolerance: float | None = None, least: float = 0.0
) -> Comparison:
    """Compare the outputs of both networks.

    Args:
        pairs: for each batch the number of examples, the original's outputs and the folded network's.
        tolerance: the largest relative error that passes; by default the rounding of each output's dtype.
        least: the rounding of other dtypes in the network, which a float output may show as well.
    """
    counts: list[int] = []
    same = 0
    tallies: list[Tally] = []
    for count, original, folded in pairs:
        ours, theirs = (list(map(numbers, jax.tree_util.tree_leaves(outputs))) for outputs in (original, folded))
        tallies = tallies or [
            Tally(allowed(array.dtype, tolerance, least), default_tolerance(array.dtype)) for array in ours
        ]
        for tally, our, their in zip(tallies, ours, theirs, strict=True):
            tally.add(our, their)
        counts.append(count)
        same += agreeing(count, ours[0], theirs[0]) if ours else count
    examples = sum(counts)
    # Batches of one size are compared with each other; else an output is expected to have a row for each example.
    rows = counts[0] if len(counts) == 1 or len(set(counts)) > 1 else 0
    return Comparison(examples, same / examples if examples else 0.0, tuple(tally.match(rows) for tally in tallies))


class Tally:
    """The comparison of one array so far.

    Args:
        tolerance: the largest relative error that is allowed; `rounding`: the one that the dtype explains.
    """

    def __init__(self, tolerance: float, rounding: float) -> None:
        self.tolerance = tolerance
        self.rounding = rounding
        self.batches = 0
        self.first: Array = np.zeros(())
        self.difference = 0.0
        self.magnitude = 0.0
        self.spread = 0.0

    def add(self, original: np.ndarray, folded: np.ndarray) -> None:
        """Compare the arrays of one batch; infinities in the same places are equal."""
        a, b = map(_widened, (original, folded))
        if a.shape != b.shape:
            self.difference = np.inf
            return
        a, b = (np.where(np.isinf(a) & (a == b), 0.0, array) for array in (a, b))
        with np.errstate(invalid="ignore"):  # inf − inf is NaN, which does not pass
            self.difference = _larger(self.difference, np.abs(a - b))
            self.magnitude = _larger(self.magnitude, np.abs(a))
            if self.batches:
                self.spread = max(self.spread, _change(self.first, a))
        self.first = self.first if self.batches else a
        self.batches += 1

    def match(self, rows: int) -> Match:
        """The result; with so many rows in the first batch, the change from row to row counts too."""
        spread = self.spread
        if self.first.ndim and len(self.first) == rows:
            spread = max(spread, _change(self.first[:1], self.first))
        sound = not np.isnan(self.magnitude)
        return Match(self.difference, self.magnitude, spread, self.rounding, self.tolerance, sound)


def _change(first: Array, other: Array) -> float:
    """The largest change of a number; the last batch may have fewer examples."""
    if first.ndim and len(first) != 1:
        length = min(len(first), len(other))
        first, other = first[:length], other[:length]
    with np.errstate(invalid="ignore"):  # inf − inf
        return float(np.nanmax(np.abs(other - first), initial=0.0))


def numbers(leaf: jax.typing.ArrayLike) -> np.ndarray:
    """The leaf on the host; of a random key, its bits."""
    if isinstance(leaf, np.ndarray):
        return leaf
    array = jnp.asarray(leaf)
    if jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    return np.asarray(array)


def _widened(array: np.ndarray) -> Array:
    """The array in float64, or complex128."""
    return np.asarray(array, np.complex128 if np.iscomplexobj(array) else np.float64)


def allowed(dtype: DType, tolerance: float | None, least: float) -> float:
    """The largest relative error that passes for an array of the dtype."""
    if tolerance is not None:
        return tolerance
    rounding = default_tolerance(dtype)
    return max(rounding, least) if rounding else 0.0


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


def _largest(values: Iterable[float]) -> float:
    return _larger(0.0, np.asarray(list(values), np.float64))


def _badness(match: Match) -> tuple[bool, float]:
    """A key for the worst match: first those that do not agree, then by their error."""
    return not match.agrees, float(np.nan_to_num(match.relative, nan=np.inf))
