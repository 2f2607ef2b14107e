"""``bncli convert``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncli.cli import options
from bncli.config.choices import WeightsOrigin


def convert(
    weights: Annotated[
        str,
        typer.Argument(
            metavar="WEIGHTS",
            help="A .safetensors or .pth file of torchvision or timm, a folder with one, or hf://ORG/NAME.",
            show_default=False,
        ),
    ],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The new checkpoint directory.", show_default=False)],
    model: Annotated[
        str | None,
        typer.Option(
            help="The network, such as resnet50; by default it is recognised by the arrays.", show_default=False
        ),
    ] = None,
    weights_from: Annotated[
        WeightsOrigin | None,
        typer.Option(
            help="The library that the weights were made for, where their names do not tell.", show_default=False
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(help="Pixels of a square image, in place of the size of the source.", min=1, show_default=False),
    ] = None,
    class_names: Annotated[
        Path | None,
        typer.Option(help="A text file with the name of each class, one a line.", show_default=False),
    ] = None,
    overwrite: options.Overwrite = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Make a checkpoint of the weights of torchvision or timm, for every other command to take.

    Every array is accounted for: an array that is missing, left over, or of another shape is an error. Padding, ε and
    the preprocessing of images are those of the library, and are recorded.
    """
    from bncli.cli import display, render
    from bncli.process.configure import configure

    configure("float32")
    from bncli.jobs.convert import ConvertOptions
    from bncli.jobs.convert import convert as convert_weights

    choices = ConvertOptions(model=model, origin=weights_from, image_size=image_size, class_names=class_names)
    result = convert_weights(weights, out, choices, overwrite=overwrite)
    for note in result.fitted.pretrained.notes:
        display.note(note, quiet=quiet)
    render.emit(result, as_json=as_json, to_json=render.convert_json, to_text=render.convert_text)
