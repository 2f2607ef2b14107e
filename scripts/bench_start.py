#!/usr/bin/env python3
"""The time until bncli begins: ``--help``, the first training step, ``eval`` of a small checkpoint.

Each time a process of its own, the interpreter's start included; a step is done when its loss is on the host. Cold:
with an empty cache directory, as at the first call ever; warm: with what an earlier call left there. Prints a table, or
with ``--json`` one document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

# The command itself, ended at the first step that it would show.
FIRST_STEP = """
import os
from bncli.cli import display
from bncli.cli.app import main
display.TrainingDisplay.show_step = lambda self, event: os._exit(0)
main()
"""


def seconds(*command: str | Path, cache: Path) -> float:
    """The wall time of a process, which must end well."""
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, *map(str, command)],
        check=True,
        capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": str(cache)},
    )
    return time.perf_counter() - start


def first_step(out: Path, cache: Path) -> float:
    """From the start of ``bncli train`` on digits to the end of its first step."""
    return seconds("-c", FIRST_STEP, "train", "--overwrite", "--out", out, cache=cache)


def measure(rounds: int) -> dict[str, list[float]]:
    """Seconds by what was waited for."""
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as directory:
        room = Path(directory)
        seconds("-m", "bncli", "train", "--epochs", "1", "--quiet", "--out", room / "ckpt", cache=room / "cache")
        waits = {
            "bncli --help": lambda number: seconds("-m", "bncli", "--help", cache=room / "cache"),
            "first training step, cold": lambda number: first_step(room / f"cold{number}", room / f"empty{number}"),
            "first training step, warm": lambda number: first_step(room / f"warm{number}", room / "cache"),
            "bncli eval": lambda number: seconds("-m", "bncli", "eval", room / "ckpt", cache=room / "cache"),
        }
        for wait in waits.values():
            wait(-1)  # the files come into the system's cache
        for number in range(rounds):
            for name, wait in waits.items():
                found.setdefault(name, []).append(wait(number))
    return found


def document(found: dict[str, list[float]], rounds: int) -> dict[str, object]:
    """The document that ``--json`` prints."""
    from bncli.process.hardware import versions

    return {
        "schema": "bncli.bench-start/1",
        "command": f"scripts/bench_start.py --rounds {rounds}",
        "versions": versions(),
        "seconds": {name: spread(times) for name, times in found.items()},
    }


def spread(times: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(times), "min": min(times), "max": max(times)}


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="default: 5")
    parser.add_argument("--json", action="store_true", help="print the document, not the table")
    options = parser.parse_args()
    found = measure(options.rounds)
    if options.json:
        print(json.dumps(document(found, options.rounds), indent=2))
        return
    for name, times in found.items():
        print(f"{name:<28} {statistics.median(times):6.2f} s  ({min(times):.2f} to {max(times):.2f})")


if __name__ == "__main__":
    main()
