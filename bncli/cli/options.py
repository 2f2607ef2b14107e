"""Options that several commands share, so that each is worded once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

FOREIGN = "A checkpoint that bncli did not write"

Checkpoint = Annotated[
    Path,
    typer.Argument(
        metavar="CKPT",
        help="A checkpoint directory, trained or folded; or another JAX program's (Orbax, msgpack, safetensors, .eqx).",
        show_default=False,
    ),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        help="A known name (see `bncli data list`), a directory of images or records, or an .npz; by default the "
        "checkpoint's own.",
        show_default=False,
    ),
]
DataDir = Annotated[
    Path | None, typer.Option("--data-dir", help="The folder to search first for a known data set.", show_default=False)
]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else.")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="The model's code, as file.py:Class or package.module:Class, if it has moved or changed since training, "
        "if you have not run it before, or if bncli did not write CKPT.",
        show_default=False,
    ),
]
ModelArg = Annotated[
    list[str] | None,
    typer.Option(
        "--model-arg",
        help="key=value for the model of another program's checkpoint; repeatable.",
        rich_help_panel=FOREIGN,
        show_default=False,
    ),
]
InputShape = Annotated[
    str | None,
    typer.Option(
        "--input-shape",
        metavar="H,W,C",
        help="Of one image, like 32,32,3, for another program's checkpoint.",
        rich_help_panel=FOREIGN,
        show_default=False,
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        "--mean",
        metavar="M,…",
        help="With --input-shape: per channel, subtracted from pixels in [0, 1]; 0 by default.",
        rich_help_panel=FOREIGN,
        show_default=False,
    ),
]
Std = Annotated[
    str | None,
    typer.Option(
        "--std",
        metavar="S,…",
        help="With --input-shape: per channel, what is left is divided by it; 1 by default.",
        rich_help_panel=FOREIGN,
        show_default=False,
    ),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace a checkpoint that is already there.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no warnings.")]
Step = Annotated[str, typer.Option("--step", help="The save to read: best (by validation), last, or a step's number.")]
