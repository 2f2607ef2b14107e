"""``bncli fold``: a checkpoint without BN, verified against the original before it is written."""

from __future__ import annotations

import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import jax.export
import numpy as np

from bncli import checkpoint as checkpoints
from bncli.checkpoint import Checkpoint, sha256_tree
from bncli.config.choices import ExportFormat
from bncli.config.document import CheckpointConfig, FoldedFrom
from bncli.data import Dataset
from bncli.data.configured import load_matching
from bncli.errors import BncliError, CheckFailedError, CheckpointError, FoldError
from bncli.folding import Folded, NothingToFoldWarning, Verification, fold
from bncli.folding.export.stablehlo import lower
from bncli.folding.proof.prove import settled
from bncli.folding.prune.prune import PrunedNetwork, PruneReport, prune
from bncli.folding.rewrite.unroll import unrolled
from bncli.folding.verify import TOLERANCES, Comparison, compare, outcome
from bncli.jobs.export import Export, ExportReport, Network, Source, check_installed, make_export
from bncli.jobs.fold_report import FoldResult, Latency, fold_document
from bncli.jobs.quantize import Quantized, quantize_int8
from bncli.ops import pad_small_images

# Examples for the verification: validation images first, then training images. The test split is never used.
VERIFY_EXAMPLES = 1024
VERIFY_BATCH = 64
# Random images stand in for data that are not known: 256 of them up to 64×64×3. Of larger ones, whose networks take
# longer, there are fewer, down to 32.
RANDOM_VALUES = 256 * 64 * 64 * 3
FEWEST_RANDOM = 32
# Examples in each of the two batches for which values inside both networks are compared.
INSIDE_BATCH = 8
# Rounding of normalized pixels, relative to the largest: that of bfloat16, and more than that of float32.
_INPUT_ROUNDING = 2.0**-7
# Interleaved rounds of the latency at batch 1; the median of each side is reported. Large networks run for a limited
# time, a few rounds at least: at 224 pixels one image takes a CPU up to half a second.
LATENCY_ROUNDS = 50
FEWEST_ROUNDS = 5
LATENCY_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class FoldOptions:
    """The choices of a fold.

    Attributes:
        include: name patterns of the BN layers to fold.
        exclude: name patterns of BN layers to keep.
        tolerance: largest relative error of a logit; None takes the rounding error of the network's precision.
        exports: formats to write beside the checkpoint, each verified like the folded network itself.
        prune_dead: True to remove the channels that pass nothing on.
        quantize: True to write the ONNX export in 8-bit integers too.
        min_accuracy: the least validation accuracy of the quantized network; None for none.
        unroll: True to write each iteration of a scan in its place, so that BN moves from one to the next.
    """

    include: tuple[str, ...] = ("*",)
    exclude: tuple[str, ...] = ()
    tolerance: float | None = None
    exports: tuple[ExportFormat, ...] = ()
    prune_dead: bool = False
    quantize: bool = False
    min_accuracy: float | None = None
    unroll: bool = False


def fold_checkpoint(
    original: Checkpoint,
    out: Path,
    options: FoldOptions | None = None,
    *,
    data_dir: Path | None = None,
    dry_run: bool = False,
    overwrite: bool = False,
) -> FoldResult:
    """Fold the BN layers of a checkpoint, verify the result, and only then write it to ``out``.

    Args:
        original: a trained checkpoint of bncli or of another program.
        out: a new directory.
        options: the choices of the fold; None takes the defaults.
        data_dir: the first place to look for the checkpoint's data set.
        dry_run: fold and verify, but write nothing.
        overwrite: replace an existing checkpoint in ``out``.

    Raises:
        CheckpointError: ``original`` is already folded, or ``out`` is taken.
        FoldError: the network must not be folded, or an export format cannot express it; the message names the layer.
            Or it is to be quantized and its data are not available.
        CheckFailedError: the folded network or an export differs by more than ``tolerance``, or the quantized network
            is less accurate than ``min_accuracy``; nothing is written.
    """
    options = options or FoldOptions()
    for export_format in options.exports:
        check_installed(export_format)
    path = original.path
    if not dry_run:
        checkpoints.check_output(out, overwrite=overwrite, source=path)
    if original.config.folded_from is not None:
        raise CheckpointError(
            f"{path} is folded already, from {original.config.folded_from.checkpoint}",
            remedy="Fold the checkpoint it was folded from, or use this one as it is.",
        )
    dataset = _dataset(original, data_dir)
    _check_quantizable(path, options, dataset)
    start = time.perf_counter()
    folded, forward = _fold_and_lower(original, options)
    pruned = _pruned(original, folded, forward) if options.prune_dead else _Pruning(folded, forward, None)
    network, forward = pruned.network, pruned.forward
    seconds = time.perf_counter() - start
    program = bytes(forward.serialize())
    _trust(program, original.path)
    images, examples = _verification_images(original, dataset)
    sides = _Sides.compile(original, network, forward)
    proof = _Proof(path, sides.original, original, images, examples, options.tolerance)
    verification = proof.of_folded(sides.folded, folded)
    config = _folded_config(original, path, folded)
    source = Source(network, forward, _symbolic_images(original), config)
    made = [make_export(export_format, source) for export_format in dict.fromkeys(options.exports)]
    quantized = _quantized(original, dataset, made, options)
    result = FoldResult(
        checkpoint=path,
        step=original.step,
        out=None,
        report=folded.report,
        verification=verification,
        examples=examples,
        latency=_latency(sides, original.preprocessor(images[:1])),
        seconds=seconds,
        exports=tuple(_proved(export, proof) for export in made),
        pruned=pruned.report,
        quantized=quantized.report if quantized else None,
        notes=original.notes,
    )
    if dry_run:
        return result
    files = {export.file: export.content for export in made}
    if quantized is not None:
        files[quantized.report.file] = quantized.content
    return _write(result, config, source, files, out, overwrite=overwrite)


def _dataset(original: Checkpoint, data_dir: Path | None) -> Dataset | BncliError:
    """The checkpoint's data set, or the reason why it is not available."""
    try:
        return load_matching(original.config, data_dir=data_dir)
    except BncliError as error:
        return error


def _check_quantizable(path: Path, options: FoldOptions, dataset: Dataset | BncliError) -> None:
    """Raise FoldError if the network is to be quantized and its data are not available."""
    if options.quantize and isinstance(dataset, BncliError):
        raise FoldError(
            f"--quantize int8 measures ranges and accuracy on the data of {path}, which are not available: "
            f"{dataset.message}",
            remedy=dataset.remedy,
        )


def _quantized(
    original: Checkpoint, dataset: Dataset | BncliError, exports: Sequence[Export], options: FoldOptions
) -> Quantized | None:
    """The quantized form of the ONNX export, if it is asked for."""
    if not options.quantize or isinstance(dataset, BncliError):
        return None
    for export in exports:
        if export.format == "onnx":
            return quantize_int8(original, dataset, export.content, min_accuracy=options.min_accuracy)
    return None


def _fold_and_lower(original: Checkpoint, options: FoldOptions) -> tuple[Folded, jax.export.Exported]:
    """The folded network, and its forward pass (variables, images [b, H, W, C]) -> logits [b, K] for any batch size b.

    JAX traces a few operations differently if the batch size is a symbol (``x[:, 1:]`` becomes a gather). A network
    with such operations is folded in its symbolic form, where fewer rules may apply.
    """
    concrete, symbolic = original.preprocessor.input_spec(2), _symbolic_images(original)

    def folded_for(images: jax.ShapeDtypeStruct) -> Folded:
        # Not verified here: the proof is made on real images, by the forward pass that is written.
        with warnings.catch_warnings():  # of a network without BN; the report says so
            warnings.simplefilter("ignore", NothingToFoldWarning)
            return fold(
                unrolled(original.apply_fn) if options.unroll else original.apply_fn,
                original.variables,
                images,
                include=options.include,
                exclude=options.exclude,
                verify=False,
            )

    def lowered(folded: Folded) -> jax.export.Exported:
        return lower(pad_small_images(folded.apply), folded.variables, symbolic)

    folded = folded_for(concrete)
    try:
        return folded, lowered(folded)
    except Exception:  # the second attempt tells if the network is at fault or only this trace of it
        try:
            folded = folded_for(symbolic)
            return folded, lowered(folded)
        except Exception as error:
            raise FoldError(
                f"the model of {original.path} cannot be exported for any batch size: {error}",
                remedy="Fold it in Python with bncli.fold, for the batch size you need.",
            ) from error


@dataclass(frozen=True)
class _Pruning:
    """The network to write, its forward pass, and the report of the search for dead channels if there was one."""

    network: Folded | PrunedNetwork
    forward: jax.export.Exported
    report: PruneReport | None


def _pruned(original: Checkpoint, folded: Folded, forward: jax.export.Exported) -> _Pruning:
    """The folded network without the channels that pass nothing on for any image."""
    settings = original.preprocessor.settings
    mean, std = np.array(settings.mean), np.array(settings.std)
    low, high = (0 - mean) / std, (1 - mean) / std
    slack = _INPUT_ROUNDING * np.maximum(np.abs(low), np.abs(high))
    found = prune(folded, low - slack, high + slack)
    if found.network is not folded:
        forward = _lowered_pruned(original, found.network)
    return _Pruning(found.network, forward, found.report)


def _lowered_pruned(original: Checkpoint, network: Folded | PrunedNetwork) -> jax.export.Exported:
    try:
        return lower(pad_small_images(network.apply), network.variables, _symbolic_images(original))
    except Exception as error:  # raised by JAX or by the network, so it may be of any type
        raise FoldError(
            f"the model of {original.path} cannot be exported without its dead channels for any batch size: {error}",
            remedy="Fold it without --prune-dead.",
        ) from error


def _symbolic_images(original: Checkpoint) -> jax.ShapeDtypeStruct:
    """The network's input for any batch size: [b, H, W, C]."""
    (batch,) = jax.export.symbolic_shape("b")
    preprocessor = original.preprocessor
    return jax.ShapeDtypeStruct((batch, *preprocessor.image_shape), preprocessor.dtype)


@dataclass(frozen=True)
class _Proof:
    """Verifies networks against the original one.

    Attributes:
        path: the original's path.
        network: the original network.
        original: the original's checkpoint.
        images: the images for both networks, uint8 [N, H, W, C].
        examples: a description of the images.
        tolerance: largest relative error that passes; None takes the rounding error of the network's precision.
    """

    path: Path
    network: Network
    original: Checkpoint
    images: np.ndarray
    examples: str
    tolerance: float | None

    def of(self, network: Network, name: str) -> Verification:
        """The verification of an exported network, by its outputs.

        Raises:
            CheckFailedError: the verification failed.
        """
        return self._checked(outcome(self._compare(network)), name)

    def of_folded(self, network: Network, folded: Folded) -> Verification:
        """The verification of the folded network, by its outputs, and by values inside where those prove nothing.

        Raises:
            CheckFailedError: the verification failed.
        """
        half = min(INSIDE_BATCH, max(1, len(self.images) // 2))
        batches = [self.original.preprocessor(images) for images in (self.images[:half], self.images[-half:])]
        found = settled(self._compare(network), folded, self.original.variables, batches, tolerance=self._allowed)
        return self._checked(found, "the folded network")

    @property
    def _allowed(self) -> float:
        dtype = self.original.config.run.training.precision
        return TOLERANCES[dtype] if self.tolerance is None else self.tolerance

    @cached_property
    def _expected(self) -> list[jax.Array | np.ndarray]:
        """The original network's logits, batch by batch, computed once for all comparisons."""
        return [self.network(x) for x in _batches(self.original, self.images)]

    def _compare(self, network: Network) -> Comparison:
        both = zip(self._expected, _batches(self.original, self.images), strict=True)
        return compare(((len(x), logits, network(x)) for logits, x in both), tolerance=self._allowed)

    def _checked(self, found: Verification, name: str) -> Verification:
        if found.status == "failed" or not found.max_rel_error <= found.tolerance:  # NaN is neither
            raise CheckFailedError(
                f"{name} differs from {self.path}: relative error {found.max_rel_error:.3g}, allowed "
                f"{found.tolerance:.3g}; top-1 agreement {found.top1_agreement:.4f} on {self.examples}",
                remedy="Nothing was written. Exclude layers with --exclude, or raise --tolerance.",
            )
        return found


def _trust(program: bytes, path: Path) -> None:
    """Remember the folded network's program as bncli's own, which its readers on this machine need not examine.

    Raises:
        FoldError: its readers would refuse it.
    """
    try:
        checkpoints.trust_program(program)
    except CheckpointError as error:
        raise FoldError(
            f"the model of {path} cannot be written as a folded checkpoint: it {error.message}",
            remedy="Fold it in Python with bncli.fold.",
        ) from error


def _proved(export: Export, proof: _Proof) -> ExportReport:
    verification = None if export.network is None else proof.of(export.network, export.file)
    return ExportReport(export.format, export.file, len(export.content), verification)


@dataclass(frozen=True)
class _Sides:
    """The two networks as compiled functions of normalized images; the folded one is the one to be written."""

    original: Callable[[jax.Array], jax.Array]
    folded: Callable[[jax.Array], jax.Array]

    @classmethod
    def compile(cls, original: Checkpoint, folded: Folded | PrunedNetwork, forward: jax.export.Exported) -> _Sides:
        variables = jax.device_put((original.variables, folded.variables))
        before, after = jax.jit(pad_small_images(original.apply_fn)), jax.jit(forward.call)
        return cls(lambda images: before(variables[0], images), lambda images: after(variables[1], images))


def _verification_images(original: Checkpoint, dataset: Dataset | BncliError) -> tuple[np.ndarray, str]:
    """(uint8 images [N, H, W, C], their description); random images if the checkpoint's data set is not available."""
    if isinstance(dataset, BncliError):
        image_shape = original.config.preprocessing.image_shape
        count = max(FEWEST_RANDOM, min(VERIFY_EXAMPLES // 4, RANDOM_VALUES // math.prod(image_shape)))
        random = np.random.default_rng(0).integers(0, 256, (count, *image_shape), dtype=np.uint8)
        return random, f"{len(random):,} random images, because the data set is not available ({dataset.message})"
    val = dataset.val.images[:VERIFY_EXAMPLES]
    train = dataset.train.images[: VERIFY_EXAMPLES - len(val)]
    return np.concatenate([val, train]), f"{len(val):,} validation and {len(train):,} training images of {dataset.name}"


def _batches(original: Checkpoint, images: np.ndarray) -> Iterator[jax.Array]:
    """Batches [B, H, W, C] of the network's input."""
    for start in range(0, len(images), VERIFY_BATCH):
        yield original.preprocessor(images[start : start + VERIFY_BATCH])


def _latency(sides: _Sides, image: jax.Array) -> Latency:
    """The latency of both networks, timed in turn so that a disturbance of the machine affects both."""
    for side in (sides.original, sides.folded):
        jax.block_until_ready(side(image))  # compiles
    times: list[tuple[float, float]] = []
    end = time.perf_counter() + LATENCY_SECONDS
    while len(times) < FEWEST_ROUNDS or (len(times) < LATENCY_ROUNDS and time.perf_counter() < end):
        times.append((_milliseconds(sides.original, image), _milliseconds(sides.folded, image)))
    original, folded = zip(*times, strict=True)
    return Latency(statistics.median(original), statistics.median(folded))


def _milliseconds(network: Callable[[jax.Array], jax.Array], image: jax.Array) -> float:
    start = time.perf_counter()
    jax.block_until_ready(network(image))
    return (time.perf_counter() - start) * 1e3


def _folded_config(original: Checkpoint, path: Path, folded: Folded) -> CheckpointConfig:
    """The original's configuration with a record of the fold."""
    names = {
        status: tuple(row.name for row in folded.report.norms if row.status == status) for status in ("folded", "kept")
    }
    origin = FoldedFrom(
        checkpoint=str(path),
        step=original.step,
        params_sha256=sha256_tree(original.variables["params"]),
        folded=names["folded"],
        kept=names["kept"],
    )
    return replace(original.config, folded_from=origin)


def _write(
    result: FoldResult,
    config: CheckpointConfig,
    source: Source,
    exports: Mapping[str, bytes],
    out: Path,
    *,
    overwrite: bool,
) -> FoldResult:
    step = result.step
    files = (
        checkpoints.CONFIG,
        checkpoints.FOLD_REPORT,
        checkpoints.FORWARD,
        f"{checkpoints.STEPS}/{step}",
        *exports,
    )
    written = replace(result, out=out, files=files)
    with checkpoints.locked(out), checkpoints.new_output(out, overwrite=overwrite):
        checkpoints.write_folded(
            out,
            config,
            step=step,
            variables=source.folded.variables,
            forward=bytes(source.forward.serialize()),
            exports=exports,
            report=fold_document(written),
        )
    return written
