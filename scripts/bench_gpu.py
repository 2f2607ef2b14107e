#!/usr/bin/env python3
"""bncli on a GPU, in one call of at most nine minutes: time to 94 % on CIFAR-10, and the speed of training.

Three parts, of which ``--part`` chooses some::

    accuracy   bncli train --recipe fast from several seeds: cold, with empty compile caches, and then warm
    resnet50   ResNet-50 on images of 224×224 in two batch sizes, beside PyTorch (bench_train.py)
    train      the cases of bench_train.py, beside PyTorch

Each run and each case has a process of its own, one after the other. It is ended if the time is over. What has not been
measured is in the document, with the reason. The document is written anew after each of them. ``--quick`` tries every
part with the smallest work, for instance by ``--quick --device cpu``; its figures say nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from bench_train import TORCH
from contest import ContestError, check_torch, tell
from contest_report import command_line
from contest_worker import CASES, LARGE_CASES

RESULTS = Path(__file__).parent / "results" / "bench_gpu.json"
BENCH_TRAIN = Path(__file__).with_name("bench_train.py")
(RESNET50,) = LARGE_CASES
# Where the time does not suffice for all cases.
FIRST_CASES = ("fastnet-32x32x3", "resnet18-32x32x3", "cnn-32x32x3")
# The smaller ones, where the memory does not suffice for the two before them.
BATCH_SIZES, NUM_BATCH_SIZES = (256, 128, 64, 32), 2
# Seconds that the first run or case of a part needs at least, before one has been measured.
FIRST_NEED = 30.0
# Kept for the last write.
RESERVE = 5.0
PROBE = """
import json
from dataclasses import asdict
from bncli.process.hardware import hardware, versions
print(json.dumps({"hardware": asdict(hardware()), "versions": versions()}))
"""
QUICK = {
    "data": "digits",
    "runs": 2,
    "epochs": 1,
    "rounds": 1,
    "seconds": 0.2,
    "batch_size": [2],
    "case": ["cnn-8x8x1"],
    "variant": ["eager"],
}
Json = dict[str, Any]


class StepError(Exception):
    """A process failed, or was ended because the time was over."""


@dataclass(frozen=True)
class Budget:
    """The time until a moment.

    Attributes:
        start: in seconds of ``time.perf_counter``.
        seconds: from then on.
    """

    start: float
    seconds: float

    @property
    def left(self) -> float:
        """Seconds that are left; negative if it is over."""
        return self.start + self.seconds - time.perf_counter()

    def share(self, part: float) -> Budget:
        """The same start, and a part of the time."""
        return Budget(self.start, self.seconds * part)


@dataclass
class Pace:
    """Decides if the time suffices for one more of the same, by the slowest so far."""

    budget: Budget
    need: float = FIRST_NEED

    def missing(self) -> str | None:
        """The reason to leave the next one out; None if there is time for it."""
        left = self.budget.left
        return (
            None
            if left >= self.need
            else f"no time: it needs about {self.need:.0f} s, and {max(0, left):.0f} s are left"
        )

    def spent(self, seconds: float) -> None:
        """Take note of a duration."""
        self.need = seconds if self.need == FIRST_NEED else max(self.need, seconds)


@dataclass
class Report:
    """The document, on the disk after each change.

    Attributes:
        path: of the document.
        document: its content.
        start: of the call.
    """

    path: Path
    document: Json
    start: float = field(default_factory=time.perf_counter)

    def put(self, part: str, section: Json) -> None:
        """Replace the section of a part, and the file at once: an interrupted call leaves a whole one."""
        self.document[part] = section
        self.document["seconds"] = time.perf_counter() - self.start
        unfinished = self.path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self.document, indent=2) + "\n", encoding="utf-8")
        unfinished.replace(self.path)

    def add_facts(self, facts: Mapping[str, Any]) -> None:
        """Add hardware and versions that a process told."""
        for name in ("hardware", "versions"):
            self.document[name] = facts.get(name, {}) | self.document.get(name, {})


@dataclass(frozen=True)
class Done:
    """The JSON document that a process printed, and the wall time from its start to its end."""

    document: Json
    seconds: float


def run(command: Sequence[str | Path], *, environment: Mapping[str, str], limit: float) -> Done:
    """Run a command that prints a JSON document.

    Raises:
        StepError: it failed, or took longer than ``limit`` seconds; then it is ended, with all that it has started.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            [str(word) for word in command],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **environment},
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=max(1.0, limit))
        except subprocess.TimeoutExpired as error:
            raise StepError(f"ended after {time.perf_counter() - start:.0f} s: the time is over") from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        seconds = time.perf_counter() - start
        errors.seek(0)
        if process.returncode:
            raise StepError(f"exit code {process.returncode}: {reason(errors.read())}")
    return Done(json.loads(output), seconds)


def reason(errors: str) -> str:
    """The line that says why a process failed: the last one that begins with "error", or the last one."""
    lines = [line for line in errors.strip().splitlines() if line.strip()] or ["no message"]
    return next((line for line in reversed(lines) if line.startswith(("error", "internal error"))), lines[-1])


def accuracy(options: argparse.Namespace, budget: Budget, report: Report) -> None:
    """Time to the target: trainings from several seeds, the first one with empty compile caches."""
    runs: list[Json] = []
    skipped: dict[str, str] = {}
    pace = Pace(budget)
    with tempfile.TemporaryDirectory() as directory:
        room = Path(directory)
        for seed in range(options.runs):
            if missing := pace.missing():
                skipped[f"seed {seed}"] = missing
                continue
            start = time.perf_counter()
            try:
                caches = "warm" if runs else "cold"
                runs.append(one_run(options, seed, room, budget) | {"caches": caches})
            except StepError as error:
                skipped[f"seed {seed}"] = str(error)
                tell(f"  seed {seed}: {error}")
            else:
                tell(f"  {run_line(runs[-1])}")
                if caches == "warm":  # a cold one says nothing about the others
                    pace.spent(time.perf_counter() - start)
            report.put("accuracy", accuracy_section(options, runs, skipped))
    report.put("accuracy", accuracy_section(options, runs, skipped))


def one_run(options: argparse.Namespace, seed: int, room: Path, budget: Budget) -> Json:
    """One training, scored as it is and with mirror images.

    Raises:
        StepError: it failed, or the time was over.
    """
    from bncli.data.places import user_data_dir

    environment = {
        "JAX_PLATFORMS": options.device,
        "XDG_CACHE_HOME": str(room / "cache"),
        "CUDA_CACHE_PATH": str(room / "cuda"),
        # A data set that was fetched is below the usual cache.
        "BNCLI_DATA": os.environ.get("BNCLI_DATA", str(user_data_dir())),
    }
    out, bncli = room / f"seed{seed}", [sys.executable, "-m", "bncli"]
    settings = ["--recipe", "fast", "--data", options.data, "--precision", options.precision, "--seed", str(seed)]
    if options.data_dir:
        settings += ["--data-dir", options.data_dir]
    for name in ("epochs", "val_fraction"):
        if (value := getattr(options, name)) is not None:
            settings += [f"--{name.replace('_', '-')}", str(value)]
    trained = run([*bncli, "train", *settings, "--out", out, "--json"], environment=environment, limit=budget.left)
    where = ["--data-dir", options.data_dir] if options.data_dir else []
    mirrored = run([*bncli, "eval", out, "--tta", "flip", *where, "--json"], environment=environment, limit=budget.left)
    shutil.rmtree(out)
    return run_record(seed, trained, mirrored, target=options.target)


def run_record(seed: int, trained: Done, mirrored: Done, *, target: float) -> Json:
    """The record of a run."""
    document = trained.document
    history = document["history"]
    reached = next((row["epoch"] for row in history if row["val_accuracy"] >= target), None)
    return {
        "seed": seed,
        "wall_seconds": trained.seconds,
        "seconds": document["seconds"],
        "images_per_second": document["images_per_second"],
        "programs": document["programs"],
        "num_train": document["dataset"]["num_train"],
        "epochs": len(history),
        "epoch_seconds": [row["seconds"] for row in history],
        "val_accuracy": [row["val_accuracy"] for row in history],
        "reached_epoch": reached,
        "reached_seconds": sum(row["seconds"] for row in history[:reached]) if reached else None,
        "test_accuracy": document["test"]["accuracy"],
        "test_accuracy_tta_flip": mirrored.document["accuracy"],
    }


def accuracy_section(options: argparse.Namespace, runs: Sequence[Json], skipped: Mapping[str, str]) -> Json:
    """The section of the part: the runs, and over them means with 95 % intervals and the usual times."""
    section: Json = {"recipe": "fast", "data": Path(options.data).name, "target": options.target, "runs": list(runs)}
    if runs:
        section |= {name: interval([run[name] for run in runs]) for name in ("test_accuracy", "test_accuracy_tta_flip")}
        section["reached"] = sum(run["test_accuracy"] >= options.target for run in runs)
        section["reached_tta_flip"] = sum(run["test_accuracy_tta_flip"] >= options.target for run in runs)
        section["training_seconds"] = spread([run["seconds"]["train"] for run in runs])
        for caches in ("cold", "warm"):
            if walls := [run["wall_seconds"] for run in runs if run["caches"] == caches]:
                section[f"{caches}_wall_seconds"] = spread(walls)
    return {**section, "skipped": dict(skipped)}


def interval(values: Sequence[float]) -> Json:
    """Mean with its 95 % interval (Student t over the seeds), which a single value does not have."""
    from bncli.studies.statistics import student_interval

    found = student_interval(values)
    ends = [found.low, found.high] if len(values) > 1 else None
    return {"n": len(values), "mean": found.mean, "interval95": ends}


def spread(values: Sequence[float]) -> Json:
    """Median, least and greatest."""
    return {"n": len(values), "median": statistics.median(values), "min": min(values), "max": max(values)}


def resnet50(options: argparse.Namespace, budget: Budget, report: Report) -> None:
    """ResNet-50 on large images, in the two largest batch sizes that the memory allows."""
    sizes = options.batch_size or list(BATCH_SIZES)
    wanted = len(sizes) if options.batch_size else NUM_BATCH_SIZES
    works = {f"batch {size}": (RESNET50, ["--batch-size", str(size)]) for size in sizes}
    contests("resnet50", works, options, budget, report, wanted=wanted)


def train(options: argparse.Namespace, budget: Budget, report: Report) -> None:
    """The cases of ``bench_train.py``, the most telling first."""
    order = {name: place for place, name in enumerate(FIRST_CASES)}
    names = options.case or sorted(CASES, key=lambda name: order.get(name, len(order)))
    contests("train", {name: (name, []) for name in names}, options, budget, report, wanted=len(names))


def contests(
    part: str,
    works: Mapping[str, tuple[str, list[str]]],
    options: argparse.Namespace,
    budget: Budget,
    report: Report,
    *,
    wanted: int,
) -> None:
    """Some contests between bncli and PyTorch, until as many as ``wanted`` are done.

    Args:
        part: the name of the section.
        works: what to call it -> (case, more options of ``bench_train.py``).
        options: of the call.
        budget: of the part.
        report: gets the section.
        wanted: number of contests.
    """
    section: Json = {"cases": [], "skipped": {}}
    pace = Pace(budget)
    try:
        check_torch(options.torch_python)
    except ContestError as error:
        section["skipped"]["all"] = str(error)
        works = {}
    for name, (case, more) in works.items():
        if len(section["cases"]) == wanted:
            break
        if missing := pace.missing():
            section["skipped"][name] = missing
            continue
        try:
            done = run(contest_command(case, more, options), environment={}, limit=budget.left)
        except StepError as error:
            section["skipped"][name] = str(error)
            tell(f"  {name}: {error}")
        else:
            pace.spent(done.seconds)
            report.add_facts(done.document)
            section["cases"] += done.document["cases"]
            tell(f"  {case_line(done.document['cases'][0])}; took {done.seconds:.0f} s")
        report.put(part, section)
    report.put(part, section)


def contest_command(case: str, more: Sequence[str], options: argparse.Namespace) -> list[str | Path]:
    """The call of ``bench_train.py`` for one case."""
    variants = [word for variant in options.variant for word in ("--variant", variant)]
    settings = ["--device", options.device, "--precision", options.precision, "--torch-python", options.torch_python]
    turns = ["--rounds", str(options.rounds), "--seconds", str(options.seconds)]
    return [sys.executable, BENCH_TRAIN, "--json", "--case", case, *settings, *turns, *variants, *more]


# part -> (its function, its share of the time; what one leaves goes to those after it)
PARTS: dict[str, tuple[Callable[[argparse.Namespace, Budget, Report], None], float]] = {
    "accuracy": (accuracy, 0.5),
    "resnet50": (resnet50, 0.25),
    "train": (train, 0.25),
}


def ends(parts: Collection[str]) -> dict[str, float]:
    """The share of the time at which each part must have ended."""
    shares = {part: share for part, (_, share) in PARTS.items() if part in parts}
    return dict(zip(shares, (sum_ / sum(shares.values()) for sum_ in accumulate(shares.values())), strict=True))


def facts(device: str) -> Json:
    """Hardware and versions, from a process of its own: a process that looks at a GPU takes its memory.

    Raises:
        StepError: JAX finds no such device.
    """
    found = run([sys.executable, "-c", PROBE], environment={"JAX_PLATFORMS": device}, limit=120).document
    return {**found, "hardware": found["hardware"] | gpu()}


def gpu() -> Json:
    """The GPU by its driver: name, driver version and memory; nothing without one."""
    names = ("gpu", "driver", "gpu_memory")
    query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
    try:
        lines = subprocess.run(query, capture_output=True, text=True, check=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.SubprocessError):
        return {}
    return dict(zip(names, (word.strip() for word in lines[0].split(",")), strict=False)) if lines else {}


def run_line(run: Json) -> str:
    """A training as text."""
    reached = f"after epoch {run['reached_epoch']}" if run["reached_epoch"] else "never"
    return (
        f"seed {run['seed']}, {run['caches']}: {run['wall_seconds']:.1f} s, {run['seconds']['train']:.1f} s of them in "
        f"training steps; target reached on validation {reached} of {run['epochs']}; test {run['test_accuracy']:.4f}, "
        f"with mirror images {run['test_accuracy_tta_flip']:.4f}"
    )


def case_line(case: Json) -> str:
    """A contest as text."""
    low, high = case["spread"]
    return (
        f"{case['name']}, batch {case['batch_size']}: bncli {case['bncli']:,.0f} images/s, "
        f"PyTorch {case['peer_variant']} {case['peer']:,.0f}, ratio {case['ratio']:.2f} ({low:.2f} to {high:.2f})"
    )


def text(document: Json) -> str:
    """The document as text."""
    lines = []
    for part in PARTS:
        section = document.get(part, {})
        lines += [run_line(run) for run in section.get("runs", ())]
        for name in ("test_accuracy", "test_accuracy_tta_flip"):
            if found := section.get(name):
                ends = "" if found["interval95"] is None else " ({:.4f} to {:.4f})".format(*found["interval95"])
                lines.append(f"{name}: {found['mean']:.4f}{ends}, n = {found['n']}")
        for name in ("cold_wall_seconds", "warm_wall_seconds", "training_seconds"):
            if found := section.get(name):
                lines.append(
                    f"{name}: {found['median']:.1f} ({found['min']:.1f} to {found['max']:.1f}), n = {found['n']}"
                )
        lines += [case_line(case) for case in section.get("cases", ())]
        lines += [f"{part}, {name}: left out: {why}" for name, why in section.get("skipped", {}).items()]
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options; those that ``--quick`` changes have no default here."""
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--part", action="append", choices=PARTS, help="repeatable (default: all)")
    made.add_argument("--minutes", type=float, default=9.0, help="of the whole call (default: 9)")
    made.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="default: cuda")
    made.add_argument("--precision", choices=("float32", "bfloat16"), default="bfloat16", help="default: bfloat16")
    made.add_argument("--quick", action="store_true", help="the smallest work, to try the script")
    made.add_argument("--out", type=Path, default=RESULTS, help=f"the document (default: {RESULTS.name})")
    made.add_argument("--json", action="store_true", help="print the document, not the table")
    runs = made.add_argument_group("accuracy")
    runs.add_argument("--data", help="a known data set or a folder (default: cifar10)")
    runs.add_argument("--data-dir", help="the folder to search first for a known data set")
    runs.add_argument("--runs", type=int, help="seeds from 0 on (default: 5)")
    runs.add_argument("--epochs", type=int, help="default: those of the recipe")
    runs.add_argument("--val-fraction", type=float, help="of bncli train")
    runs.add_argument("--target", type=float, default=0.94, help="accuracy (default: 0.94)")
    speed = made.add_argument_group("resnet50 and train")
    speed.add_argument("--torch-python", default=sys.executable, metavar="PATH", help="an interpreter with PyTorch")
    speed.add_argument("--variant", action="append", choices=TORCH, help="default: compiled channels_last; repeatable")
    speed.add_argument("--rounds", type=int, help="that count (default: 3)")
    speed.add_argument("--seconds", type=float, help="of a turn, about (default: 1)")
    speed.add_argument("--batch-size", type=int, action="append", help="of resnet50; repeatable (default: 256 and 128)")
    speed.add_argument("--case", action="append", choices=CASES, metavar="NAME", help="of train; repeatable")
    return made


def parsed(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The options with their defaults."""
    options = parser().parse_args(words)
    usual = {"data": "cifar10", "runs": 5, "rounds": 3, "seconds": 1.0, "variant": ["compiled channels_last"]}
    for name, value in (usual | QUICK if options.quick else usual).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main() -> None:
    """Measure, write after each run and case, and print."""
    options = parsed()
    budget = Budget(time.perf_counter(), options.minutes * 60 - RESERVE)
    try:
        found = facts(options.device)
    except StepError as error:
        sys.exit(f"error: JAX finds no {options.device} device: {error}")
    settings = {name: getattr(options, name) for name in ("device", "precision", "minutes", "quick")}
    report = Report(options.out, {"schema": "bncli.bench-gpu/1", "command": command_line(), **settings, **found})
    for part, end in ends(options.part or PARTS).items():
        tell(part)
        measure, _ = PARTS[part]
        measure(options, budget.share(end), report)
    print(json.dumps(report.document, indent=2) if options.json else text(report.document))


if __name__ == "__main__":
    main()
