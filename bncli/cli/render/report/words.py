"""Sentences and values that the page, the text and the comparison share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.jobs.mistakes import Example
    from bncli.jobs.report import RunReport, Scored

_OWN = {
    "val": "These validation images chose the best epoch, so its scores here are slightly optimistic. "
    "Score the test images with --split test.",
    "test": "No test image was used in the training or in choosing the epoch. Scores stay honest only as long as no "
    "decision is made by them.",
}


def scored_on(scored: Scored) -> str:
    """Return the images that were scored: "180 validation images of digits"."""
    split = {"val": "validation", "test": "test"}[scored.split]
    return f"{scored.mistakes.result.num_examples:,} {split} images of {scored.dataset}"


def about_split(scored: Scored) -> str:
    """Return what the split means for the scores."""
    if scored.is_own:
        return _OWN[scored.split]
    return "These are not the data of the training. If some of its images are among them, the scores are optimistic."


def value_text(value: object) -> str:
    """Return a setting's value as a user would write it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None or value == {}:
        return "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return ", ".join(f"{key}={item}" for key, item in value.items())
    return str(value)


def run_names(runs: Sequence[RunReport]) -> list[str]:
    """Return the shortest ends of the runs' paths that differ from each other."""
    parts = [run.checkpoint.absolute().parts for run in runs]
    longest = max(map(len, parts))
    for length in range(1, longest + 1):
        names = ["/".join(path[-length:]) for path in parts]
        if len(set(names)) == len(names):
            return [visible(name) for name in names]
    return [visible(f"{run.checkpoint} step {run.step}") for run in runs]


def file_name(example: Example) -> str:
    """Return the image's file, with its folder; its number in the split if it has none."""
    if example.file is None:
        return f"image {example.index}"
    return visible("/".join(example.file.parts[-2:]))
