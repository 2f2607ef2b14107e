#!/usr/bin/env python3
"""The time of a training step on a CPU, by kind of operation: the product's own step under JAX's profiler.

XLA starts convolutions and matrix products on other threads and notes only their start, so they are what the others
leave of the step's time. Prints a table, or with ``--json`` one document.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import bench_train
from contest_worker import CASES

STEPS = 5
LAYOUT_CHANGES = ("transpose_copy", "copy_reverse", "wrapped_slice")
# Kind -> what the text of an XLA instruction has, the first that fits; the rest are convolutions and products.
KINDS: dict[str, Callable[[str, str], bool]] = {
    "layout changes of weight gradients": lambda name, text: name.startswith(LAYOUT_CHANGES),
    "reductions (statistics, sums of gradients)": lambda name, text: name.startswith("ynn_fusion"),
    "random numbers": lambda name, text: "u32[" in text.split("(")[0] or " call(" in text,
    "elementwise (BN, ReLU, pooling, dropout, optimizer)": lambda name, text: " fusion(" in text,
    "copies": lambda name, text: " copy(" in text or " concatenate(" in text,
}
REST = "convolutions and matrix products"
INSTRUCTION = re.compile(r"\s*(?:ROOT )?%?([\w.\-]+) = (.*)")


def profile(case_name: str) -> dict[str, float]:
    """Milliseconds of a step by kind, and the whole."""
    import jax

    from bncli.process.configure import configure
    from bncli.training import assembly, run

    configure()
    case = CASES[case_name]
    with tempfile.TemporaryDirectory() as directory:
        trainer = assembly.create_trainer(
            bench_train.run_config(case, "float32"), bench_train.synthetic_dataset(case), Path(directory) / "ckpt"
        )
        run.start(trainer, overwrite=False)
        events = trainer.epochs()

        def step() -> None:
            next(events)
            jax.block_until_ready(trainer.state)

        for _ in range(STEPS + 2):  # the first ones fill the loop's queue
            step()
        seconds = []
        for _ in range(2 * STEPS):
            start = time.perf_counter()
            step()
            seconds.append(time.perf_counter() - start)
        with jax.profiler.trace(directory):
            for _ in range(STEPS):
                step()
        (compiled,) = trainer.execution.programs.values()
        found = by_kind(compiled.program.as_text(), Path(directory))
    whole = statistics.median(seconds) * 1e3
    return {**found, REST: max(0.0, whole - sum(found.values())), "step": whole}


def by_kind(program: str, directory: Path) -> dict[str, float]:
    """Milliseconds of a step, by kind, of the instructions of the program that were traced."""
    from jax.profiler import ProfileData

    texts = dict(match.groups() for line in program.splitlines() if (match := INSTRUCTION.match(line)))
    (trace,) = directory.rglob("*.xplane.pb")
    totals: Counter[str] = Counter()
    for plane in ProfileData.from_file(str(trace)).planes:
        for line in plane.lines:
            for event in line.events:
                with suppress(KeyError):
                    kind = kind_of(event.name, texts[event.name])
                    totals[kind] += event.duration_ns / 1e6 / STEPS
    return {kind: totals[kind] for kind in KINDS}


def kind_of(name: str, text: str) -> str:
    """The kind of one instruction."""
    return next((kind for kind, fits in KINDS.items() if fits(name, text)), REST)


def main() -> None:
    """Profiles and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="cnn-32x32x3", help="default: cnn-32x32x3")
    parser.add_argument("--json", action="store_true", help="print the document, not the table")
    options = parser.parse_args()
    found = profile(options.case)
    if options.json:
        from bncli.process.hardware import versions

        document: dict[str, Any] = {
            "schema": "bncli.profile-step/1",
            "case": options.case,
            "versions": versions(),
            "milliseconds": found,
        }
        print(json.dumps(document, indent=2))
        return
    for kind, milliseconds in found.items():
        print(f"{kind:<52} {milliseconds:7.1f} ms  {milliseconds / found['step']:4.0%}")


if __name__ == "__main__":
    main()
