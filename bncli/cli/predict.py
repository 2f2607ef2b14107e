"""``bncli predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncli.cli import options


def predict(
    checkpoint: options.Checkpoint,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE…", help="Image files.", show_default=False)],
    top: Annotated[int, typer.Option(help="How many classes to show.", min=1)] = 5,
    step: options.Step = "best",
    model: options.Model = None,
    as_json: options.Json = False,
    debug: options.Debug = False,
) -> None:
    """Show the most probable classes of image files, resized and normalised as in training."""
    from bncli.checkpoint import load, read_config
    from bncli.cli import render
    from bncli.process.configure import configure

    configure(read_config(checkpoint).run.training.precision)
    from bncli.jobs.predict import predict as predict_images

    opened = load(checkpoint, step=step, model=model)
    report = render.PredictReport(checkpoint, predict_images(opened, images, top=top))
    render.emit(report, as_json=as_json, to_json=render.predict_json, to_text=render.predict_text)
