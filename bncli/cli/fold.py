"""``bncli fold``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from bncli.cli import options
from bncli.cli.parsing import absolute_model_name, image_shape, model_arguments, numbers
from bncli.config.choices import ExportFormat, QuantizeFormat
from bncli.config.json_types import Document
from bncli.errors import UsageError

if TYPE_CHECKING:
    from bncli.checkpoint import Checkpoint

_FOREIGN = "A checkpoint that bncli did not write"


def fold(
    checkpoint: Annotated[
        Path,
        typer.Argument(
            metavar="CKPT",
            help="A trained checkpoint: bncli's own, an Orbax directory, or a Flax msgpack file.",
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
    model: Annotated[
        str | None,
        typer.Option(
            help="The model's code, as file.py:Class or package.module:Class, if it has moved or changed since "
            "training, or if bncli did not write CKPT.",
            show_default=False,
        ),
    ] = None,
    model_arg: Annotated[
        list[str] | None,
        typer.Option(
            help="key=value for the model of another program's checkpoint; repeatable.",
            rich_help_panel=_FOREIGN,
            show_default=False,
        ),
    ] = None,
    input_shape: Annotated[
        str | None,
        typer.Option(
            metavar="H,W,C",
            help="Of one image, like 32,32,3, for another program's checkpoint.",
            rich_help_panel=_FOREIGN,
            show_default=False,
        ),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            metavar="M,…",
            help="With --input-shape: per channel, subtracted from pixels in [0, 1]; 0 by default.",
            rich_help_panel=_FOREIGN,
            show_default=False,
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            metavar="S,…",
            help="With --input-shape: per channel, what is left is divided by it; 1 by default.",
            rich_help_panel=_FOREIGN,
            show_default=False,
        ),
    ] = None,
    data_dir: options.DataDir = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Merge BN into its neighbours, prove on data that nothing changed, and write a checkpoint without BN.

    Nothing is written when the proof fails (exit code 3). CKPT may also be an Orbax directory or a Flax msgpack file
    that another program wrote: --model and --input-shape then say what is not in it.
    """
    exports = _export_formats(export)
    _check_quantize(quantize, exports, min_accuracy)
    foreign = _ForeignOptions(
        model_arguments(model_arg or ()),
        image_shape(input_shape) if input_shape is not None else None,
        numbers(mean, "--mean") if mean is not None else None,
        numbers(std, "--std") if std is not None else None,
    )
    from bncli.cli import render

    original = _open(checkpoint, step, model, foreign)
    from bncli.jobs.fold import FoldOptions, fold_checkpoint

    options = FoldOptions(
        include=tuple(include or ("*",)),
        exclude=tuple(exclude or ()),
        tolerance=tolerance,
        exports=tuple(exports),
        prune_dead=prune_dead,
        quantize=quantize is not None,
        min_accuracy=min_accuracy,
    )
    result = fold_checkpoint(original, out, options, data_dir=data_dir, dry_run=dry_run, overwrite=overwrite)
    render.emit(result, as_json=as_json, to_json=render.fold_json, to_text=render.fold_text)


@dataclass(frozen=True)
class _ForeignOptions:
    """The facts that another program's checkpoint lacks; empty or None if not given."""

    model_args: Document
    image_shape: tuple[int, int, int] | None
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None

    def refuse(self, checkpoint: Path) -> None:
        """Raise UsageError if one was given for bncli's own checkpoint, which holds them all."""
        given = {
            "--model-arg": bool(self.model_args),
            "--input-shape": self.image_shape is not None,
            "--mean": self.mean is not None,
            "--std": self.std is not None,
        }
        if any(given.values()):
            raise UsageError(
                f"{', '.join(name for name, is_given in given.items() if is_given)}: {checkpoint} is bncli's own "
                "checkpoint, which holds this itself",
                remedy="Leave the option out.",
            )


def _open(path: Path, step: str, model: str | None, foreign: _ForeignOptions) -> Checkpoint:
    """The checkpoint to fold, and JAX set up for the precision of its network."""
    from bncli.checkpoint import is_foreign, open_foreign
    from bncli.cli import session
    from bncli.process.configure import configure

    if not is_foreign(path):
        foreign.refuse(path)
        return session.open_checkpoint(path, step=step, model=model)
    configure("bfloat16")  # not known yet, and these settings are right for either
    from bncli.config.settings import ModelConfig
    from bncli.config.validation import validated

    named = None
    if model is not None:
        named = validated(ModelConfig, name=absolute_model_name(model), args=foreign.model_args)
    return open_foreign(
        path, step=step, model=named, image_shape=foreign.image_shape, mean=foreign.mean, std=foreign.std
    )


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
