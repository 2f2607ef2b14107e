"""``bncli data list``, ``bncli data fetch`` and ``bncli data pack``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncli.cli import options
from bncli.cli.streams import write_result
from bncli.config.choices import BadImages, Interpolation


def list_datasets(
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show the data sets known by name, and where each lies.

    --data also takes a folder of images, of ArrayRecord files (of TFDS or plain) or of packed images, and an .npz.
    """
    from bncli.cli import render
    from bncli.data import known_datasets

    rows = tuple(known_datasets(data_dir=data_dir))
    render.emit(rows, as_json=as_json, to_json=render.datasets_json, to_text=render.datasets_text)


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A known name.", show_default=False)],
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Download a data set from its publisher, and check its SHA-256."""
    from bncli.cli import display, render
    from bncli.data import fetch as fetch_dataset

    with display.counting(quiet=quiet, unit="bytes") as progress:
        folder = fetch_dataset(name, data_dir=data_dir, progress=progress)
    if as_json:
        render.emit_json(render.fetched_json(render.Fetched(name, folder)))
    else:
        write_result(f"{folder}\n")  # on one line, for scripts


def pack(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A folder of images or records, or what else --data takes.", show_default=False
        ),
    ],
    out: Annotated[
        Path,
        typer.Argument(
            metavar="OUT", help="A folder that does not exist yet, for the packed images.", show_default=False
        ),
    ],
    image_size: Annotated[
        int | None,
        typer.Option("--image-size", help="Resize the images to this many pixels square.", min=1, show_default=False),
    ] = None,
    channels: Annotated[
        int | None, typer.Option(help="1 for grey, 3 for colour; by default as in the files.", show_default=False)
    ] = None,
    resize: Annotated[
        int | None,
        typer.Option(
            help="Scale the shorter side to this many pixels, then cut --image-size out of the centre; by default an "
            "image is scaled until it just covers --image-size.",
            min=1,
            show_default=False,
        ),
    ] = None,
    interpolation: Annotated[Interpolation, typer.Option(help="Filter of --resize.")] = "bilinear",
    pixel_range: Annotated[
        str,
        typer.Option(
            help="Values that become black and white where pixels have more than 8 bits, such as 0:4095; auto measures "
            "the training images.",
        ),
    ] = "auto",
    bad_images: Annotated[BadImages, typer.Option(help="Treatment of an unreadable image file.")] = "error",
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Decode a data set once, into a few large files that train, eval and the others read fast.

    With the same settings, such as --recipe none, --data OUT then trains to the same bytes as --data SOURCE. A packing
    that was killed goes on when the same command runs again.
    """
    from bncli.cli import display, render
    from bncli.config.document import Crop
    from bncli.data.folder import ImageOptions
    from bncli.data.load import open_contents
    from bncli.data.packing import pack as pack_contents
    from bncli.data.pixel_range import parse_range

    images = ImageOptions(
        size=image_size,
        channels=channels,
        bad_images=bad_images,
        pixel_range=parse_range(pixel_range),
        crop=None if resize is None else Crop(resize=resize, interpolation=interpolation),
    )
    with display.counting(quiet=quiet, unit="files") as progress:
        contents = open_contents(source, data_dir=data_dir, images=images, progress=progress)
        result = pack_contents(contents, out, progress=progress)
    display.warn(result.notes, quiet=quiet)
    render.emit(result, as_json=as_json, to_json=render.packed_json, to_text=render.packed_text)
