#!/usr/bin/env python3
"""Kill a training again and again, resume it each time, and compare what it comes to with a run left in peace.

    scripts/torture_resume.py [--kills 60] [--faults 20] [--seed 0] [--json FILE] [-- OPTIONS OF bncli train]

Each kill is a SIGKILL: at a random moment of the run (start-up and compilation included), while a save is being
written, just after a save has ended, or at the first sight of a new step. A run that comes to its end is compared with
the reference, the SHA-256 of params, batch_stats, EMA and optimizer state and each row of metrics.jsonl, and another is
begun until there were so many kills.

Then, --faults times, a run goes on while writes to its directory fail at random, with "no space left" or
"input/output error" (``failing_disk.c``, which needs a C compiler): whatever is named as a save afterwards must be
whole, and the run, resumed on a disk that works, must come to the same end.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bncli import checkpoint
from bncli.errors import CheckpointError

RUN = (
    *("--data", "digits", "--epochs", "5", "--ema-decay", "0.9", "--save-every", "7", "--dropout", "0.1"),
    *("--model", "cnn", "--model-arg", "features=[4,8]"),
)
TIMINGS = ("seconds", "images_per_second")
MOMENTS = ("at a random moment", "while saving", "after a save", "early")
POLL = 0.002  # seconds
LIMIT = 600.0


@dataclass
class Tally:
    """Counts over all runs."""

    kills: int = 0
    kills_by_moment: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MOMENTS, 0))
    saves_cut_short: int = 0
    runs: int = 0
    faulty_runs: int = 0
    faulty_runs_ended: int = 0
    corrupt_saves: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


class Process(Protocol):
    """A training under way."""

    def poll(self) -> int | None:
        """Its exit code; None while it runs."""

    def kill(self) -> None:
        """SIGKILL, and waits."""

    def output(self) -> tuple[str, str]:
        """(stdout, stderr), once it has ended."""


# (directory, whether to resume, more options, more environment) -> a training under way, whose stdout is its document
Start = Callable[[Path, bool, Sequence[str], Mapping[str, str]], Process]


class Command:
    """``bncli train`` in a process of its own."""

    def __init__(
        self, options: Sequence[str], out: Path, resume: bool, more: Sequence[str], env: Mapping[str, str]
    ) -> None:
        given = ["--resume"] if resume else [*options, *more]
        self._files = [tempfile.TemporaryFile("w+") for _ in range(2)]  # noqa: SIM115 - closed by output()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bncli", "train", *given, "--out", str(out), "--json", "--quiet"],
            stdout=self._files[0],
            stderr=self._files[1],
            env=os.environ | env,
        )

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.output()

    def output(self) -> tuple[str, str]:
        texts = []
        for file in self._files:
            file.seek(0)
            texts.append(file.read())
            file.close()
        return texts[0], texts[1]


def torture(start: Start, folder: Path, *, kills: int, seed: int, show: Callable[[str], None]) -> Tally:
    """Kills runs until there were ``kills``; see above."""
    rng, tally, begun = random.Random(seed), Tally(), time.monotonic()
    reference = _finish(start, folder / "reference", resume=False)
    usual = time.monotonic() - begun
    show(f"reference: {usual:.1f} s, params {reference['sha256']['params'][:12]}…")
    while tally.kills < kills:
        out = folder / f"run{tally.runs}"
        resume = False
        while tally.kills < kills:
            moment = rng.choice(MOMENTS)
            killed = _run_and_kill(start, out, resume=resume, moment=moment, delay=rng.uniform(0, usual))
            resume = (out / "config.json").is_file()
            if not killed:
                break
            tally.kills += 1
            tally.kills_by_moment[moment] += 1
            tally.saves_cut_short += bool(_unfinished(out))
            show(f"kill {tally.kills} {moment}: saves {_complete(out)}, cut short {_unfinished(out)}")
        tally.differences += _differences(reference, _finish(start, out, resume=resume), out)
        tally.runs += 1
        show(f"run {tally.runs} is through after {tally.kills} kills; differences: {len(tally.differences)}")
    tally.seconds = time.monotonic() - begun
    return tally


def failing_disk(folder: Path) -> Path:
    """The library to preload, compiled."""
    library = folder / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    return library


def torture_disk(
    start: Start, folder: Path, tally: Tally, *, faults: int, seed: int, show: Callable[[str], None]
) -> None:
    """Runs with a failing disk, and what they leave; see above. The processes have ``failing_disk`` preloaded."""
    reference = _finish(start, folder / "reference", resume=(folder / "reference").exists())
    rng = random.Random(seed)
    for number in range(faults):
        out, goes_on = folder / f"faulty{number}", rng.choice(["stop", "continue"])
        fault = {"FAULT_ERRNO": str(rng.choice([errno.ENOSPC, errno.EIO])), "FAULT_SEED": str(rng.randrange(2**32))}
        fault |= {"FAULT_PATH": str(out), "FAULT_ONE_IN": str(rng.choice([50, 200, 800]))}
        process = start(out, False, ["--on-save-error", goes_on], fault)
        code, (_, words) = _ended(process), process.output()
        if code not in (0, 1) or "Traceback" in words or ("error:" in words) != bool(code):
            raise SystemExit(f"a run on a failing disk ended with {code}:\n{words}")
        tally.faulty_runs += 1
        tally.faulty_runs_ended += code
        for step in _complete(out):
            try:
                checkpoint.verify(out, step)
            except CheckpointError as error:
                tally.corrupt_saves += 1
                show(f"CORRUPT: {error.message}")
        show(f"fault {number + 1}: exit {code}, saves {_complete(out)}; {(words.splitlines() or ['no error'])[0]}")
        result = _finish(start, out, resume=(out / "config.json").is_file())
        tally.differences += _differences(reference, result, out)


def _finish(start: Start, out: Path, *, resume: bool) -> dict[str, Any]:
    process = start(out, resume, [], {})
    code, (document, words) = _ended(process), process.output()
    if code:
        raise SystemExit(f"the run in {out} ended with {code}:\n{words}")
    return json.loads(document)


def _ended(process: Process) -> int:
    end = time.monotonic() + LIMIT
    while (code := process.poll()) is None:
        if time.monotonic() > end:
            process.kill()
            raise SystemExit(f"a run did not end within {LIMIT:.0f} s")
        time.sleep(POLL)
    return code


def _run_and_kill(start: Start, out: Path, *, resume: bool, moment: str, delay: float) -> bool:
    """True if the run was killed, False if it ended before."""
    process = start(out, resume, [], {})
    before, begun = set(_complete(out)), time.monotonic()
    while (code := process.poll()) is None:
        since = time.monotonic() - begun
        if (
            (moment == "at a random moment" and since >= delay)
            or (moment == "early" and since >= delay / 3)
            or (moment == "while saving" and since >= delay / 2 and _unfinished(out))
            or (moment == "after a save" and since >= delay / 2 and set(_complete(out)) - before)
            or since > LIMIT
        ):
            process.kill()
            return True
        time.sleep(POLL)
    _, words = process.output()
    if code:
        raise SystemExit(f"a run ended with {code} by itself:\n{words}")
    return False


def _complete(out: Path) -> list[int]:
    return sorted(int(path.stem) for path in (out / "steps").glob("*.sha256") if path.stem.isdigit())


def _unfinished(out: Path) -> list[str]:
    """Saves without a manifest."""
    try:
        names = {path.name for path in (out / "steps").iterdir()}
    except OSError:
        return []
    return sorted(name for name in names if not name.endswith(".sha256") and f"{name}.sha256" not in names)


def _differences(reference: dict, result: dict, out: Path) -> list[str]:
    """The parts of a killed run's result that differ from the reference."""
    found = [f"{out.name}: {part}" for part, sha in reference["sha256"].items() if result["sha256"][part] != sha]
    expected = [_without_timings(row) for row in reference["history"]]
    on_disk = [_without_timings(json.loads(line)) for line in (out / "metrics.jsonl").read_text().splitlines()]
    found += [f"{out.name}: history"] * ([_without_timings(row) for row in result["history"]] != expected)
    found += [f"{out.name}: metrics.jsonl"] * (on_disk != expected)
    found += [f"{out.name}: {part}" for part in ("best", "test") if result[part] != reference[part]]
    return found


def _without_timings(row: dict) -> dict:
    return {name: value for name, value in row.items() if name not in TIMINGS}


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--faults", type=int, default=0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the tally there")
    parser.add_argument("options", nargs="*", help="of bncli train, after --", default=list(RUN))
    arguments = parser.parse_args()

    def start(out: Path, resume: bool, more: Sequence[str], env: Mapping[str, str]) -> Process:
        preload = {"LD_PRELOAD": str(folder / "failing_disk.so")} if env else {}
        return Command(arguments.options, out, resume, more, env | preload)

    def show(line: str) -> None:
        print(line, flush=True)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tally = torture(start, folder, kills=arguments.kills, seed=arguments.seed, show=show)
        if arguments.faults:
            failing_disk(folder)
            torture_disk(start, folder, tally, faults=arguments.faults, seed=arguments.seed, show=show)
    document = {"schema": "bncli.torture/1", "options": arguments.options, "seed": arguments.seed, **asdict(tally)}
    print(json.dumps(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    raise SystemExit(bool(tally.differences or tally.corrupt_saves))


if __name__ == "__main__":
    main()
