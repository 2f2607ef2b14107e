"""A checkpoint in, a checkpoint out: folding BN away, with the proof that nothing changed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.export
import jax.numpy as jnp
import numpy as np

from bncli import checkpoint as checkpoints
from bncli.checkpoint import Checkpoint, sha256_tree
from bncli.config import FoldedFrom
from bncli.data import normalize
from bncli.data.configured import load_matching
from bncli.errors import BncliError, CheckFailedError, CheckpointError, FoldError
from bncli.folding import Folded, FoldReport, Verification, fold, verify
from bncli.folding.verify import TOLERANCES

# Examples the proof is made on, validation images first, then training images; the test split is left alone.
VERIFY_EXAMPLES = 1024
VERIFY_BATCH = 64
# Interleaved rounds of the latency at batch 1; the median of each side is reported.
LATENCY_ROUNDS = 50
# The folded forward pass is lowered for each of these, whichever this machine has.
PLATFORMS = ("cpu", "cuda", "tpu")


@dataclass(frozen=True)
class Latency:
    """Median time of one call at batch 1, compiled, in milliseconds."""

    original: float
    folded: float


@dataclass(frozen=True)
class FoldResult:
    """What folding a checkpoint came to.

    Attributes:
        checkpoint: what was folded.
        step: of its save.
        out: the new checkpoint; None where nothing was written.
        report: per BN layer: folded or kept, into what, why not.
        verification: original and folded side by side.
        examples: what they were compared on, in words.
        latency: of both.
        seconds: folding and lowering, without verification.
        files: written, relative to ``out``.
    """

    checkpoint: Path
    step: int
    out: Path | None
    report: FoldReport
    verification: Verification
    examples: str
    latency: Latency
    seconds: float
    files: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The ``bncli.fold/1`` document."""
        return {
            "schema": "bncli.fold/1",
            "checkpoint": str(self.checkpoint),
            "step": self.step,
            "out": None if self.out is None else str(self.out),
            "folded": self.report.folded,
            "kept": self.report.kept,
            "norms": [{**asdict(row), "into": list(row.into)} for row in self.report.norms],
            "verification": {**asdict(self.verification), "examples": self.examples},
            "latency_ms": asdict(self.latency),
            "seconds": self.seconds,
            "files": list(self.files),
        }


def fold_checkpoint(
    path: Path,
    out: Path,
    *,
    step: str = "best",
    model: str | None = None,
    data_dir: Path | None = None,
    tolerance: float | None = None,
    include: Sequence[str] = ("*",),
    exclude: Sequence[str] = (),
    dry_run: bool = False,
    overwrite: bool = False,
) -> FoldResult:
    """Folds the BN layers of the checkpoint in ``path``, verifies the result, and only then writes it to ``out``.

    Args:
        path: a trained checkpoint.
        out: a new directory.
        step: "best", "last" or a step's number.
        model: the model's name, where the user's own code has moved or changed.
        data_dir: where to look for the checkpoint's data set first.
        tolerance: largest relative error of a logit; None takes what rounding explains in the network's precision.
        include: name patterns of the BN layers to fold.
        exclude: name patterns of BN layers to keep.
        dry_run: fold and verify, but write nothing.
        overwrite: replace a checkpoint that is already in ``out``.

    Raises:
        CheckpointError: no checkpoint, one that is folded already, or ``out`` is taken.
        FoldError: the network must not be folded; names the layer.
        CheckFailedError: original and folded differ by more than ``tolerance``; nothing is written.
    """
    if not dry_run:
        _check_paths(path, out, overwrite=overwrite)
    original = checkpoints.load(path, step=step, model=model)
    if original.config.folded_from is not None:
        raise CheckpointError(
            f"{path} is folded already, from {original.config.folded_from.checkpoint}",
            remedy="Fold the checkpoint it was made of, or use this one as it is.",
        )
    dtype = jnp.dtype(original.config.run.training.precision)
    start = time.perf_counter()
    folded, forward = _fold_and_export(original, include=include, exclude=exclude)
    seconds = time.perf_counter() - start
    images, examples = _verification_images(original, data_dir)
    sides = _Sides.compile(original, folded, forward)
    verification = verify(
        sides.original,
        sides.folded,
        _batches(original, images),
        tolerance=TOLERANCES[dtype.name] if tolerance is None else tolerance,
    )
    result = FoldResult(
        checkpoint=path,
        step=original.step,
        out=None,
        report=folded.report,
        verification=verification,
        examples=examples,
        latency=_latency(sides, next(_batches(original, images[:1]))),
        seconds=seconds,
    )
    if not verification.passed:
        raise CheckFailedError(
            f"the folded network differs from {path}: relative error {verification.max_rel_error:.3g}, allowed "
            f"{verification.tolerance:.3g}; top-1 agreement {verification.top1_agreement:.4f} on {examples}",
            remedy="Nothing was written. Keep layers out by --exclude, or allow more by --tolerance.",
        )
    if dry_run:
        return result
    return _write(result, original, folded, bytes(forward.serialize()), out, overwrite=overwrite)


def _fold_and_export(
    original: Checkpoint, *, include: Sequence[str], exclude: Sequence[str]
) -> tuple[Folded, jax.export.Exported]:
    """The folded network, and its forward pass (variables, images [b, H, W, C]) -> logits [b, K] for any batch size b.

    A few operations are traced differently when the batch size is a symbol (``x[:, 1:]`` becomes a gather). A network
    that has them is folded as it looks with the symbol, where fewer rules may apply.
    """
    (batch,) = jax.export.symbolic_shape("b")
    shape, dtype = original.config.preprocessing.image_shape, jnp.dtype(original.config.run.training.precision)
    symbolic = jax.ShapeDtypeStruct((batch, *shape), dtype)
    folded = fold(
        original.apply_fn,
        original.variables,
        jax.ShapeDtypeStruct((2, *shape), dtype),
        include=include,
        exclude=exclude,
    )
    try:
        return folded, _export(folded, symbolic)
    except Exception:  # the second attempt tells whether it is the network or only this trace of it
        try:
            folded = fold(original.apply_fn, original.variables, symbolic, include=include, exclude=exclude)
            return folded, _export(folded, symbolic)
        except Exception as error:
            raise FoldError(
                f"the model of {original.path} cannot be written down for any batch size: {error}",
                remedy="Fold it in Python with bncli.fold, for the batch size you need.",
            ) from error


def _export(folded: Folded, images: jax.ShapeDtypeStruct) -> jax.export.Exported:
    variables = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), folded.variables)
    return jax.export.export(jax.jit(folded.apply), platforms=PLATFORMS)(variables, images)


@dataclass(frozen=True)
class _Sides:
    """The two networks as compiled functions of normalised images; the folded one is what would be written."""

    original: Callable[[Any], Any]
    folded: Callable[[Any], Any]

    @classmethod
    def compile(cls, original: Checkpoint, folded: Folded, forward: jax.export.Exported) -> _Sides:
        variables = jax.device_put((original.variables, folded.variables))
        before, after = jax.jit(original.apply_fn), jax.jit(forward.call)
        return cls(lambda images: before(variables[0], images), lambda images: after(variables[1], images))


def _check_paths(path: Path, out: Path, *, overwrite: bool) -> None:
    if path.resolve() == out.resolve():
        raise CheckpointError(f"{out} is the checkpoint to fold", remedy="Name another directory for the result.")
    checkpoints.check_output(out, overwrite=overwrite)


def _verification_images(original: Checkpoint, data_dir: Path | None) -> tuple[np.ndarray, str]:
    """uint8 images [N, H, W, C] to compare on, and what they are; random ones where the data are not at hand."""
    config = original.config
    try:
        dataset = load_matching(config, data_dir=data_dir)
    except BncliError as error:
        random = np.random.default_rng(0).integers(
            0, 256, (VERIFY_EXAMPLES // 4, *config.preprocessing.image_shape), dtype=np.uint8
        )
        return random, f"{len(random):,} random images, because the data are not at hand ({error.message})"
    val = dataset.val.images[:VERIFY_EXAMPLES]
    train = dataset.train.images[: VERIFY_EXAMPLES - len(val)]
    return np.concatenate([val, train]), f"{len(val):,} validation and {len(train):,} training images of {dataset.name}"


def _batches(original: Checkpoint, images: np.ndarray) -> Iterator[jax.Array]:
    """Normalised batches [B, H, W, C] in the network's precision."""
    preprocessing = original.config.preprocessing
    dtype = jnp.dtype(original.config.run.training.precision)
    for start in range(0, len(images), VERIFY_BATCH):
        yield normalize(images[start : start + VERIFY_BATCH], preprocessing.mean, preprocessing.std, dtype=dtype)


def _latency(sides: _Sides, image: jax.Array) -> Latency:
    """Both networks in turn, so that whatever disturbs the machine disturbs both."""
    for side in (sides.original, sides.folded):
        jax.block_until_ready(side(image))  # compiles
    times = [(_milliseconds(sides.original, image), _milliseconds(sides.folded, image)) for _ in range(LATENCY_ROUNDS)]
    original, folded = zip(*times, strict=True)
    return Latency(statistics.median(original), statistics.median(folded))


def _milliseconds(network: Callable[[Any], Any], image: jax.Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(network(image))
    return (time.perf_counter() - start) * 1e3


def _write(
    result: FoldResult, original: Checkpoint, folded: Folded, forward: bytes, out: Path, *, overwrite: bool
) -> FoldResult:
    names = {
        status: tuple(row.name for row in folded.report.norms if row.status == status) for status in ("folded", "kept")
    }
    config = replace(
        original.config,
        folded_from=FoldedFrom(
            checkpoint=str(result.checkpoint),
            step=original.step,
            params_sha256=sha256_tree(original.variables["params"]),
            folded=names["folded"],
            kept=names["kept"],
        ),
    )
    checkpoints.create_output(out, overwrite=overwrite)
    files = (checkpoints.CONFIG, checkpoints.FOLD_REPORT, checkpoints.FORWARD, f"{checkpoints.STEPS}/{original.step}")
    written = replace(result, out=out, files=files)
    checkpoints.write_folded(
        out, config, step=original.step, variables=folded.variables, forward=forward, report=written.to_json()
    )
    return written
