"""What ``bncli train`` shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.text import Text

from bncli.cli.render.base import jsonable, plain_table

if TYPE_CHECKING:
    from bncli.training.loop import Trainer
    from bncli.training.run import TrainResult


def run_lines(trainer: Trainer) -> str:
    """What is about to be trained on what, in two lines."""
    import jax

    config, data = trainer.config, trainer.dataset
    num_params = sum(leaf.size for leaf in jax.tree.leaves(trainer.state.params))
    bn = f"BN {config.model.bn_placement}-activation" if trainer.state.batch_stats else "no BN"
    device = jax.devices()[0].device_kind
    return (
        f"{config.model.name}, {bn}, {num_params:,} parameters, on {trainer.mesh.size} × {device}\n"
        f"{data.name}: {len(data.train):,} train, {len(data.val):,} val, {len(data.test):,} test images"
    )


def recipe_line(chosen: Mapping[str, Any]) -> str:
    """The options that a recipe chose, as they would be given."""
    options = " ".join(
        f"--{name.replace('_', '-')} {value}"
        for name, values in chosen.items()
        for value in (values if isinstance(values, tuple) else [f"{values:g}"])
    )
    return f"by its recipe: {options}"


def train_json(result: TrainResult) -> dict[str, Any]:
    """The ``bncli.train/1`` document."""
    return {
        "schema": "bncli.train/1",
        "out": str(result.out),
        "epochs_run": result.epochs_run,
        "stopped_early": result.stopped_early,
        "best": asdict(result.best),
        "precise_bn": None if result.precise is None else asdict(result.precise),
        "test": {
            "accuracy": result.test.accuracy,
            "loss": result.test.loss,
            "num_examples": result.test.num_examples,
        },
        "images_per_second": result.images_per_second,
        "seconds": asdict(result.seconds),
        "sha256": {name: digest for name, digest in asdict(result.sha256).items() if digest is not None},
        "history": [asdict(row) for row in result.history],
        "config": jsonable(result.config.run),
        "dataset": jsonable(result.config.dataset),
        "versions": dict(result.config.versions),
    }


def train_text(result: TrainResult) -> RenderableType:
    """The epoch table, the test score and what to do next."""
    table = plain_table("epoch", "train loss", "train acc", "val loss", "val acc", "lr", "img/s")
    for row in result.history:
        is_best = row.epoch == result.best.epoch
        table.add_row(
            f"{row.epoch}{'*' if is_best else ' '}",
            f"{row.train_loss:.4f}",
            f"{row.train_accuracy:.4f}",
            f"{row.val_loss:.4f}",
            f"{row.val_accuracy:.4f}",
            f"{row.lr:.2g}",
            f"{row.images_per_second:,.0f}",
            style="bold green" if is_best else None,
        )
    seconds, out = result.seconds, escape(str(result.out))
    summary = Text.from_markup(
        f"[bold]test accuracy {result.test.accuracy:.4f}[/], loss {result.test.loss:.4f} on "
        f"{result.test.num_examples:,} images, by the best epoch ({result.best.epoch}*)\n"
        f"{seconds.total:.1f} s in all: {seconds.train:.1f} s training, {seconds.compile:.1f} s compiling the step\n"
        f"written to [bold]{out}[/]; next: bncli inspect-stats {out}, bncli fold {out} out"
    )
    precise = result.precise
    measured = (
        [
            Text(
                f"population statistics of {precise.num_examples:,} images: val acc {precise.val_accuracy:.4f}, "
                f"loss {precise.val_loss:.4f}"
            )
        ]
        if precise is not None
        else []
    )
    early = [Text("stopped early: patience is spent")] if result.stopped_early else []
    return Group(table, *early, *measured, summary)
