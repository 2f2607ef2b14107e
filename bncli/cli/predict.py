"""``bncli predict``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bncli.cli import options


def predict(
    checkpoint: options.Checkpoint,
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE…", help="Image files, or folders, with all image files below.", show_default=False
        ),
    ],
    top: Annotated[int, typer.Option(help="Classes to show, the most probable first.", min=1)] = 5,
    step: options.Step = "best",
    model: options.Model = None,
    model_arg: options.ModelArg = None,
    input_shape: options.InputShape = None,
    mean: options.Mean = None,
    std: options.Std = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show the most probable classes of image files, resized and normalised as in training.

    A file that cannot be read does not stop the others. It is named at the end, and the command ends with 1.
    """
    from bncli.cli import display, render, session

    unsaid = session.unsaid(model_arg, input_shape, mean, std)
    opened = session.open_checkpoint(checkpoint, step=step, model=model, unsaid=unsaid, quiet=quiet)
    from bncli.jobs.predict import predict as predict_images

    with display.counting(quiet=quiet, unit="files") as progress:
        predictions = predict_images(opened, images, top=top, progress=progress)
    display.warn(predictions.notes, quiet=quiet)
    report = render.PredictReport(checkpoint, predictions)
    if predictions.rows or as_json:
        render.emit(report, as_json=as_json, to_json=render.predict_json, to_text=render.predict_text)
    if predictions.error is not None:
        raise predictions.error
