#!/usr/bin/env python3
"""The cost of saving: training steps with one save among them, and as many without, in turns.

Of the product's own loop, on images of noise. The cost is the median difference of a turn with a save and the turn
before it; its share is that of an epoch of 45,000 images with one save. Prints a table, or with ``--json`` a document.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from bench_train import run_config, synthetic_dataset
from contest_worker import CASES

IMAGES_OF_AN_EPOCH = 45_000


def measure(name: str, *, rounds: int, steps: int) -> dict[str, Any]:
    """Seconds of turns with and without a save, for one case of ``bench_train.py``."""
    from bncli.training import assembly, run
    from bncli.training.progress import StepProgress

    case = replace(CASES[name], train_steps=(2 * rounds + 2) * steps)
    with tempfile.TemporaryDirectory() as folder:
        config = run_config(case, "float32")
        trainer = assembly.create_trainer(config, synthetic_dataset(case), Path(folder) / "ckpt")
        run.start(trainer, overwrite=False)
        never, once = (replace(config.training, save_every=every) for every in (None, "1"))
        events = (event for event in trainer.epochs() if isinstance(event, StepProgress))

        def turn(*, save: bool) -> float:
            start = time.perf_counter()
            for number in range(steps):
                trainer.saver.settings = once if save and number == 0 else never
                next(events)
            return time.perf_counter() - start

        turn(save=True)  # compiles
        with_save, without = [], []
        for _ in range(rounds):
            without.append(turn(save=False))
            with_save.append(turn(save=True))
        saved = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        kept = len(list(Path(folder).glob("ckpt/steps/*.sha256")))
        trainer.saver.wait()
    cost = statistics.median(a - b for a, b in zip(with_save, without, strict=True))
    epoch = statistics.median(without) / steps * IMAGES_OF_AN_EPOCH / case.batch_size
    return {
        "case": name,
        "steps_per_turn": steps,
        "rounds": rounds,
        "seconds_without": statistics.median(without),
        "seconds_with": statistics.median(with_save),
        "seconds_per_save": cost,
        "bytes_per_save": saved // max(1, kept),
        "share_of_an_epoch": cost / epoch,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", action="append", choices=CASES, help="repeatable; default: cnn-32x32x3, resnet18")
    parser.add_argument("--rounds", type=int, default=7, help="default: 7")
    parser.add_argument("--steps", type=int, default=6, help="in a turn; default: 6")
    parser.add_argument("--json", type=Path, help="write the document there")
    options = parser.parse_args()
    from bncli.process.configure import configure
    from bncli.process.hardware import hardware, versions

    configure()
    cases = options.case or ["cnn-32x32x3", "resnet18-32x32x3"]
    found = [measure(name, rounds=options.rounds, steps=options.steps) for name in cases]
    for row in found:
        print(
            f"{row['case']:<18} {row['bytes_per_save'] / 2**20:6.1f} MiB a save  {row['seconds_per_save']:6.3f} s  "
            f"{100 * row['share_of_an_epoch']:.2f} % of an epoch"
        )
    if options.json:
        about = {"versions": versions(), "hardware": asdict(hardware())}
        document = {"schema": "bncli.bench-save/1", **about, "cases": found}
        options.json.write_text(json.dumps(document, indent=2) + "\n")


if __name__ == "__main__":
    main()
