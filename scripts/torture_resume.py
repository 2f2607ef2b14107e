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
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

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
    """What the runs came to."""

    kills: int = 0
    kills_by_moment: dict[str, int] = field(default_factory=lambda: dict.fromkeys(MOMENTS, 0))
    saves_cut_short: int = 0
    runs: int = 0
    faulty_runs: int = 0
    faulty_runs_ended: int = 0
    corrupt_saves: int = 0
    differences: list[str] = field(default_factory=list)
    seconds: float = 0.0


def torture(options: Sequence[str], folder: Path, *, kills: int, seed: int, show: Callable[[str], None]) -> Tally:
    """Kills runs of ``bncli train`` with these options until there were ``kills``; see above."""
    rng, tally, start = random.Random(seed), Tally(), time.monotonic()
    begun = time.monotonic()
    reference = _finish(options, folder / "reference", resume=False)
    usual = time.monotonic() - begun
    show(f"reference: {usual:.1f} s, params {reference['sha256']['params'][:12]}…")
    while tally.kills < kills:
        out = folder / f"run{tally.runs}"
        resume = False
        while tally.kills < kills:
            moment = rng.choice(MOMENTS)
            killed = _run_and_kill(options, out, resume=resume, moment=moment, delay=rng.uniform(0, usual))
            resume = (out / "config.json").is_file()
            if not killed:
                break
            tally.kills += 1
            tally.kills_by_moment[moment] += 1
            tally.saves_cut_short += bool(_unfinished(out))
            show(f"kill {tally.kills} {moment}: saves {_complete(out)}, cut short {_unfinished(out)}")
        tally.differences += _differences(reference, _finish(options, out, resume=resume), out)
        tally.runs += 1
        show(f"run {tally.runs} is through after {tally.kills} kills; differences: {len(tally.differences)}")
    tally.seconds = time.monotonic() - start
    return tally


def torture_disk(
    options: Sequence[str], folder: Path, tally: Tally, *, faults: int, seed: int, show: Callable[[str], None]
) -> None:
    """Runs with a failing disk, and what they leave; see above."""
    library = folder / "failing_disk.so"
    source = Path(__file__).with_name("failing_disk.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", str(library), str(source), "-ldl"], check=True)
    reference = _finish(options, folder / "reference", resume=(folder / "reference").exists())
    rng = random.Random(seed)
    for number in range(faults):
        out, goes_on = folder / f"faulty{number}", rng.choice(["stop", "continue"])
        fault = {"FAULT_ERRNO": str(rng.choice([errno.ENOSPC, errno.EIO])), "FAULT_SEED": str(rng.randrange(2**32))}
        fault |= {"FAULT_PATH": str(out), "FAULT_ONE_IN": str(rng.choice([50, 200, 800])), "LD_PRELOAD": str(library)}
        done = subprocess.run(
            [*_command(options, out, resume=False), "--on-save-error", goes_on],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
            env=os.environ | fault,
        )
        told = "error:" in done.stderr or not done.returncode
        if done.returncode not in (0, 1) or "Traceback" in done.stderr or not told:
            raise SystemExit(f"a run on a failing disk ended with {done.returncode}:\n{done.stderr}")
        tally.faulty_runs += 1
        tally.faulty_runs_ended += done.returncode
        for step in _complete(out):
            try:
                checkpoint.verify(out, step)
            except CheckpointError as error:
                tally.corrupt_saves += 1
                show(f"CORRUPT: {error.message}")
        words = done.stderr.strip().splitlines()
        show(f"fault {number + 1}: exit {done.returncode}, saves {_complete(out)}; {words[0] if words else 'no error'}")
        resume = (out / "config.json").is_file()
        tally.differences += _differences(reference, _finish(options, out, resume=resume), out)


def _command(options: Sequence[str], out: Path, *, resume: bool) -> list[str]:
    given = ["--resume"] if resume else list(options)
    return [sys.executable, "-m", "bncli", "train", *given, "--out", str(out), "--json", "--quiet"]


def _finish(options: Sequence[str], out: Path, *, resume: bool) -> dict:
    done = subprocess.run(
        _command(options, out, resume=resume), capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if done.returncode:
        command = " ".join(_command(options, out, resume=resume))
        raise SystemExit(f"{command} ended with {done.returncode}:\n{done.stderr}")
    return json.loads(done.stdout)


def _run_and_kill(options: Sequence[str], out: Path, *, resume: bool, moment: str, delay: float) -> bool:
    """Whether the run was killed; False where it came to its end before."""
    process = subprocess.Popen(
        _command(options, out, resume=resume), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    before, start = set(_complete(out)), time.monotonic()
    while process.poll() is None:
        since = time.monotonic() - start
        if since > LIMIT:
            process.kill()
            raise SystemExit(f"a run did not end within {LIMIT:.0f} s")
        if (
            (moment == "at a random moment" and since >= delay)
            or (moment == "early" and since >= delay / 3)
            or (moment == "while saving" and since >= delay / 2 and _unfinished(out))
            or (moment == "after a save" and since >= delay / 2 and set(_complete(out)) - before)
        ):
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
            return True
        time.sleep(POLL)
    if process.returncode:
        raise SystemExit(f"a run ended with {process.returncode} by itself:\n{process.stderr.read()}")
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
    """What a killed run's end does not share with the reference."""
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
    with tempfile.TemporaryDirectory() as folder:
        show = lambda line: print(line, flush=True)  # noqa: E731
        tally = torture(arguments.options, Path(folder), kills=arguments.kills, seed=arguments.seed, show=show)
        if arguments.faults:
            torture_disk(
                arguments.options, Path(folder), tally, faults=arguments.faults, seed=arguments.seed, show=show
            )
    document = {"schema": "bncli.torture/1", "options": arguments.options, "seed": arguments.seed, **asdict(tally)}
    print(json.dumps(document))
    if arguments.json:
        arguments.json.write_text(json.dumps(document, indent=2) + "\n")
    raise SystemExit(bool(tally.differences or tally.corrupt_saves))


if __name__ == "__main__":
    main()
