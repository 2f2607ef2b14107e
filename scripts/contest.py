"""A contest between bncli and a peer: workers that take turns, round by round, and what comes of it.

Each contestant is a process of its own (``contest_worker.py``) that stays alive. In a round each one works for a few
seconds while the others wait on their stdin; every second round goes the other way around. What disturbs the machine
disturbs all of them, so that speeds are compared within a round. A first round of growing turns warms the workers up,
finds how much work fills a turn, and is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from contest_report import Outcome, Result, Turn
from contest_worker import CASES, Work

from bncli.jobs.bench.disturbance import start_watch

# Between turns: threads that spin for a while after their work have stopped by then.
SETTLE_SECONDS = 0.05
# A warm-up turn this near to a whole one tells how much work fills it.
ENOUGH = 1 / 3
# The next warm-up turn is at most this much larger.
GROWTH = 8
# What a worker gets to end by itself.
CLOSE_SECONDS = 20


class ContestError(Exception):
    """There is nothing to compare, or not with each other."""


class WorkerError(ContestError):
    """A worker failed."""

    def __init__(self, worker: str, reason: str) -> None:
        """A failure of the worker of that name; ``reason`` does not repeat it."""
        super().__init__(f"{worker}: {reason}")
        self.reason = reason


class Worker(AbstractContextManager["Worker"]):
    """A contestant's process."""

    def __init__(
        self, name: str, command: Sequence[str | Path], *, is_peer: bool, environment: Mapping[str, str]
    ) -> None:
        """Starts it; it waits for ``ask``."""
        self.name = name
        self.is_peer = is_peer
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by __exit__
        self._process = subprocess.Popen(
            [str(word) for word in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **environment},
        )

    def ask(self, what: str, value: Mapping[str, Any] | int) -> dict[str, Any]:
        """The answer to one request.

        Raises:
            WorkerError: it could not, or has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with suppress(BrokenPipeError):  # it has ended, and the next line is empty
            self._process.stdin.write(json.dumps({what: value}) + "\n")
            self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise WorkerError(self.name, f"its process ended with {self._process.wait()}: {self._last_words()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(self.name, answer["error"])
        return answer

    def first(self, batch_size: int) -> Work:
        """Its first work, compilation included."""
        return Work(**self.ask("first", batch_size))

    def turn(self, amount: int) -> Turn:
        """So many steps or calls, with an eye on what other programs do."""
        time.sleep(SETTLE_SECONDS)
        watch, start = start_watch(), time.perf_counter()
        answer = self.ask("turn", amount)
        busy, seconds = watch(), time.perf_counter() - start
        others = None if busy is None else max(0.0, busy - answer["cpu_seconds"] / seconds)
        return Turn(**answer, other_cores=others)

    def _last_words(self) -> str:
        self._errors.seek(0)
        return (self._errors.read().strip().splitlines() or ["no message"])[-1]

    def __exit__(self, *_: object) -> None:
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()
        try:
            self._process.wait(CLOSE_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()


@dataclass(frozen=True, kw_only=True)
class Contest:
    """The workers of one network, and how they take turns.

    Attributes:
        rounds: that count.
        seconds: of a turn, about.
        facts: of those that run, in the order of their start: worker -> what it tells about itself.
        left_out: variant -> why it does not run.
    """

    rounds: int
    seconds: float
    facts: dict[Worker, dict[str, Any]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def admit(self, worker: Worker, request: Mapping[str, Any]) -> dict[str, Any]:
        """Starts a worker's program; what it tells about itself. A peer that cannot start is left out: {}.

        Raises:
            WorkerError: bncli cannot start.
        """
        try:
            facts = worker.ask("start", request)
        except WorkerError as error:
            self._leave_out(worker, error)
            return {}
        self.facts[worker] = facts
        return facts

    def check_parameters(self) -> None:
        """Raises ContestError unless all networks have the same number of parameters, where they know it."""
        found = {worker.name: facts["parameters"] for worker, facts in self.facts.items()}
        numbers = {number for number in found.values() if number is not None}
        tell(f"  parameters: {', '.join(f'{number:,}' for number in numbers)}")
        if len(numbers) > 1:
            raise ContestError(f"these are not the same network, by their numbers of parameters: {found}")

    def about(self) -> dict[str, Any]:
        """The hardware and the versions that the workers told."""
        versions: dict[str, str] = {}
        hardware: dict[str, Any] = {}
        for facts in self.facts.values():
            versions |= facts["versions"]
            hardware |= facts.get("hardware", {})
        return {"hardware": hardware, "versions": versions}

    def measure(self, name: str, batch_size: int) -> Outcome:
        """First works, warm-up, and the rounds.

        Raises:
            ContestError: bncli fails, a peer fails after its first work, or no peer is left.
        """
        firsts = self._firsts(batch_size)
        workers = list(firsts)
        if not any(worker.is_peer for worker in workers):
            raise ContestError(f"no peer is left: {'; '.join(self.left_out.values())}")
        amounts = {worker: self._warm_up(worker) for worker in workers}
        turns: dict[Worker, list[Turn]] = {worker: [] for worker in workers}
        for number in range(self.rounds):
            for worker in in_turn(workers, number):
                turns[worker].append(worker.turn(amounts[worker]))
            rates = ", ".join(f"{worker.name} {turns[worker][-1].rate:,.0f}" for worker in workers)
            tell(f"  round {number + 1} of {self.rounds}, images/s: {rates}")
        results = tuple(
            Result(worker.name, worker.is_peer, amounts[worker], firsts[worker], tuple(turns[worker]))
            for worker in workers
        )
        return Outcome(name, batch_size, results, dict(self.left_out))

    def _firsts(self, batch_size: int) -> dict[Worker, Work]:
        """The first work of each worker, one after the other; a peer that fails is out."""
        firsts = {}
        for worker in list(self.facts):
            try:
                firsts[worker] = worker.first(batch_size)
            except WorkerError as error:
                self._leave_out(worker, error)
                continue
            tell(f"  {worker.name}: first {firsts[worker].images} images in {firsts[worker].seconds:.1f} s")
        return firsts

    def _leave_out(self, worker: Worker, error: WorkerError) -> None:
        if not worker.is_peer:
            raise error
        tell(f"  left out {error}")
        self.facts.pop(worker, None)
        self.left_out[worker.name] = error.reason

    def _warm_up(self, worker: Worker) -> int:
        """The number of steps or calls that fill a turn of this worker, found by trying more and more."""
        amount = 1
        while True:
            turn = worker.turn(amount)
            wanted = max(1, round(amount * self.seconds / turn.seconds))
            if turn.seconds >= self.seconds * ENOUGH:
                break
            amount = min(wanted, amount * GROWTH)
        if turn.left is not None:
            wanted = min(wanted, turn.left // self.rounds)
        if wanted < 1:
            raise WorkerError(worker.name, f"the epoch is too short for {self.rounds} rounds: give --train-steps")
        tell(f"  {worker.name}: {wanted} a turn")
        return wanted


def torch_worker(variant: str, task: Literal["infer", "train"], *, python: str, cache: Path) -> Worker:
    """A process of ``torch_peer.py`` that keeps its compiled programs in the folder ``cache``."""
    command: list[str | Path] = [python, Path(__file__).with_name("torch_peer.py"), task]
    return Worker(variant, command, is_peer=True, environment={"TORCHINDUCTOR_CACHE_DIR": str(cache)})


def in_turn(workers: Sequence[Worker], number: int) -> list[Worker]:
    """The workers in the order of that round: every second one goes the other way around."""
    return list(workers) if number % 2 == 0 else list(reversed(workers))


def tell(line: str) -> None:
    """Progress, on stderr."""
    print(line, file=sys.stderr, flush=True)


def check_torch(python: str) -> None:
    """Raises ContestError unless that interpreter has PyTorch."""
    try:
        found = subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode == 0
    except OSError as error:
        raise ContestError(f"--torch-python {python}: {error.strerror}") from error
    if not found:
        raise ContestError(f"{python} has no PyTorch: name an interpreter that has by --torch-python")


def add_options(parser: argparse.ArgumentParser, *, seconds: float, cases: Collection[str] = tuple(CASES)) -> None:
    """The options that all contests have; ``seconds`` is the default length of a turn."""
    parser.add_argument(
        "--case", action="append", choices=cases, metavar="NAME", help=f"of {', '.join(cases)}; repeatable"
    )
    parser.add_argument("--rounds", type=int, default=5, help="that count (default: 5)")
    parser.add_argument("--seconds", type=float, default=seconds, help=f"of a turn, about (default: {seconds:g})")
    parser.add_argument("--torch-python", default=sys.executable, metavar="PATH", help="an interpreter with PyTorch")
    parser.add_argument("--json", action="store_true", help="print the document, not the table")
