"""``bncli lr-find``."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bncli.cli import options
from bncli.cli.files import check_new, write_new
from bncli.cli.run_settings import new_run, settings_from
from bncli.cli.setting_options import with_settings
from bncli.cli.train import with_pretrained
from bncli.config.choices import LrRule
from bncli.config.settings import OPTIMIZER, OUTPUT
from bncli.errors import UsageError

if TYPE_CHECKING:
    from bncli.frameworks.linen import Variables
    from bncli.jobs.lr_find import LrFindResult

# Settings of a run that a range test replaces, or does not come to.
_NOT_USED = (
    *(f"optimizer.{field}" for field in ("learning_rate", "schedule", "schedule_epochs", "warmup_epochs")),
    *(f"training.{field}" for field in ("epochs", "patience", "ema_decay", "precise_bn", "keep", "save_every")),
    *(f"training.{field}" for field in ("on_save_error", "on_nan")),
    "finetune.unfreeze_at",
)


def _lr_find(
    ctx: typer.Context,
    *,
    config: Annotated[
        Path | None,
        typer.Option(help="Settings in a TOML file; options on the command line win.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="CKPT",
            help="Begin with the weights of a checkpoint, its network and its settings. It is only read.",
            show_default=False,
        ),
    ] = None,
    step: options.Step = "best",
    lowest: Annotated[float, typer.Option(help="Learning rate of the first step.", min=1e-12, max=1e6)] = 1e-5,
    highest: Annotated[float, typer.Option(help="Learning rate of the last step.", min=1e-12, max=1e6)] = 10.0,
    steps: Annotated[int, typer.Option(help="Number of steps between the two.", min=10, max=100_000)] = 100,
    rule: Annotated[
        LrRule,
        typer.Option(
            help="steepest: the rate where the loss falls fastest. minimum: a tenth of the rate where it is lowest."
        ),
    ] = "steepest",
    recipe: Annotated[
        str | None,
        typer.Option(help="Defaults for a data set, as in train.", rich_help_panel=OPTIMIZER, show_default=False),
    ] = None,
    figure: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Also draw the curve into a file that ends in .svg or .html.",
            rich_help_panel=OUTPUT,
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file of --figure.", rich_help_panel=OUTPUT)
    ] = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Find a learning rate: train for some steps while the rate grows, until the loss explodes.

    This is the range test of Smith 2015. The options are those of the training that the rate is for. Nothing is
    written but the figure; the weights of a checkpoint are copied.
    """
    if not lowest < highest:
        raise UsageError(f"--lowest {lowest:g} is not below --highest {highest:g}", remedy="Lower it.")
    if figure is not None:
        _check_figure(figure, overwrite=overwrite)
    asked = new_run(ctx) if checkpoint is None else settings_from(ctx, checkpoint)
    from bncli.process.configure import configure

    configure(asked.config.training.precision, allow_bad_jaxlib=False)
    from bncli.cli import display, render, session
    from bncli.jobs.lr_find import RangeTest, find_learning_rate

    asked, pretrained = with_pretrained(asked, quiet=quiet) if checkpoint is None else (asked, None)
    dataset = session.training_data(asked.config, quiet=quiet)
    run = asked.fitted(len(dataset.train)).config
    variables = None if checkpoint is None else _weights(checkpoint, step=step)
    test = RangeTest(lowest=lowest, highest=highest, steps=steps, rule=rule)
    with display.stages(quiet=quiet, is_timed=False) as show:
        tell = partial(show, "range test")
        tell(0, None)  # while the first step is compiled
        done = iter(range(1, steps + 1))
        result = find_learning_rate(
            run,
            dataset,
            test,
            pretrained=pretrained,
            variables=variables,
            on_step=lambda point: tell(next(done), steps),
        )
    if figure is not None:
        _write_figure(result, figure, overwrite=overwrite, quiet=quiet)
    render.emit(result, as_json=as_json, to_json=render.lr_find_json, to_text=render.lr_find_text)


lr_find = with_settings(_lr_find, without=_NOT_USED)


def _weights(path: Path, *, step: str) -> Variables:
    """The weights in a save of a checkpoint."""
    from bncli import checkpoint

    return checkpoint.load_variables(path, checkpoint.find_step(path, step))


def _check_figure(path: Path, *, overwrite: bool) -> None:
    if path.suffix.lower() not in (".svg", ".html"):
        raise UsageError(
            f"--figure {path}: its name ends in neither .svg nor .html", remedy="Name it lr-find.svg, say."
        )
    check_new(path, overwrite=overwrite)


def _write_figure(result: LrFindResult, path: Path, *, overwrite: bool, quiet: bool) -> None:
    from bncli.cli import display, render
    from bncli.cli.untrusted import visible

    draw = render.lr_find_svg if path.suffix.lower() == ".svg" else render.lr_find_page
    write_new(path, draw(result), overwrite=overwrite)
    display.note(visible(f"figure written to {path}"), quiet=quiet)
