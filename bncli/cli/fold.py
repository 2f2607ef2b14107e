"""``bncli fold``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from bncli.cli import options
from bncli.config.choices import ExportFormat, QuantizeFormat
from bncli.errors import UsageError


def fold(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT",
            help="A trained checkpoint: bncli's own, or one that another JAX program wrote.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new checkpoint directory.", show_default=False)],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fold and verify, but write nothing.")] = False,
    include: Annotated[
        list[str] | None,
        typer.Option(help="Fold only BN layers with such a name, * as wildcard; repeatable.", show_default=False),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="Keep BN layers with such a name; repeatable.", show_default=False)
    ] = None,
    export: Annotated[
        str | None,
        typer.Option(
            help="Also write model.onnx, model.safetensors, model.stablehlo: their endings, separated by commas.",
            show_default=False,
        ),
    ] = None,
    prune_dead: Annotated[
        bool,
        typer.Option(
            "--prune-dead",
            help="Remove channels that provably pass nothing on, and the weights around them.",
        ),
    ] = False,
    unroll: Annotated[
        bool,
        typer.Option("--unroll", help="Write each iteration of a scan in its place, so that BN moves between them."),
    ] = False,
    quantize: Annotated[
        QuantizeFormat | None,
        typer.Option(
            help="With --export onnx, also write model.int8.onnx in 8-bit integers, measured beside float32.",
            show_default=False,
        ),
    ] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            help="With --quantize: exit with 3, and write nothing, below this validation accuracy.",
            min=0,
            max=1,
            show_default=False,
        ),
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(help="Largest relative error of a logit; by default what rounding explains.", show_default=False),
    ] = None,
    step: options.Step = "best",
    model: options.Model = None,
    model_arg: options.ModelArg = None,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    std: options.Std = None,
    data_dir: options.DataDir = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Merge BN into its neighbours, prove on data that nothing changed, and write a checkpoint without BN.

    Nothing is written when the proof fails (exit code 3). CKPT may also be an Orbax directory, or a file of Flax
    (msgpack), safetensors or Equinox, that another program wrote: --model and --input-shape then say what is not in it.
    """
    exports = _export_formats(export)
    _check_quantize(quantize, exports, min_accuracy)
    from bncli.cli import render, session

    unsaid = session.unsaid(model_arg, input_shape, mean, std)
    _refuse_onnx(checkpoint)
    original = session.open_checkpoint(checkpoint, step=step, model=model, unsaid=unsaid)
    from bncli.jobs.fold import FoldOptions, fold_checkpoint

    options = FoldOptions(
        include=tuple(include or ("*",)),
        exclude=tuple(exclude or ()),
        tolerance=tolerance,
        exports=tuple(exports),
        prune_dead=prune_dead,
        quantize=quantize is not None,
        min_accuracy=min_accuracy,
        unroll=unroll,
    )
    result = fold_checkpoint(original, out, options, data_dir=data_dir, dry_run=dry_run, overwrite=overwrite)
    render.emit(result, as_json=as_json, to_json=render.fold_json, to_text=render.fold_text)


def _refuse_onnx(checkpoint: Path) -> None:
    """Raise CheckpointError for an ONNX file, which holds a network that is exported already."""
    from bncli.checkpoint import is_foreign, is_unsaid, read_foreign

    if is_foreign(checkpoint) and not is_unsaid(checkpoint):
        read_foreign(checkpoint)


def _check_quantize(
    quantize: QuantizeFormat | None, exports: tuple[ExportFormat, ...], min_accuracy: float | None
) -> None:
    """Raise UsageError for options that have no effect without another one."""
    if quantize is not None and "onnx" not in exports:
        raise UsageError("--quantize is for the ONNX export", remedy="Add --export onnx.")
    if min_accuracy is not None and quantize is None:
        raise UsageError(
            "--min-accuracy is for the quantized network", remedy="Add --quantize int8, or use `bncli eval`."
        )


def _export_formats(option: str | None) -> tuple[ExportFormat, ...]:
    """The formats named in ``--export``.

    Raises:
        UsageError: an unknown one.
    """
    known = get_args(ExportFormat)
    wanted = tuple(word.strip() for word in option.split(",")) if option is not None else ()
    for word in wanted:
        if word not in known:
            raise UsageError(f"--export: no format {word!r}", remedy=f"It takes {', '.join(known)}.")
    return cast("tuple[ExportFormat, ...]", wanted)
