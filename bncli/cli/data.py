"""``bncli data list`` and ``bncli data fetch``."""

from __future__ import annotations

from typing import Annotated

import typer

from bncli.cli import options
from bncli.cli.streams import write_result


def list_datasets(
    data_dir: options.DataDir = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show the data sets known by name, and where each lies."""
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
