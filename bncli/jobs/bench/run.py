"""The comparison of several networks: warm calls at each batch size, beside their cold starts."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bncli.jobs.bench.cold import ColdStart
from bncli.jobs.bench.disturbance import start_watch
from bncli.jobs.bench.networks import Kind, OpenNetwork, Target, first_call, random_images
from bncli.jobs.bench.warm import Rounds, Spread, time_rounds
from bncli.process.hardware import Hardware, hardware, versions

Progress: TypeAlias = Callable[[str, int, int], None]  # title, done, total


@dataclass(frozen=True)
class BatchTiming:
    """The times of a network at one batch size.

    Attributes:
        batch_size: B.
        rounds: R.
        calls_per_round: calls in each round, whose time is their mean.
        milliseconds: time of one call, from images on the host to logits on the host.
        ratio: speed relative to the first network, computed within each round.
    """

    batch_size: int
    rounds: int
    calls_per_round: int
    milliseconds: Spread
    ratio: Spread

    @property
    def images_per_second(self) -> float:
        """B divided by the median time."""
        return self.batch_size / self.milliseconds.median * 1e3


@dataclass(frozen=True)
class NetworkTiming:
    """The times of a network.

    Attributes:
        checkpoint: its checkpoint or ONNX file.
        step: the step of the save that was read.
        kind: "trained", "folded" or "onnx".
        cold: its cold start; None if it was not measured.
        batches: its warm times, in the requested order of the batch sizes.
    """

    checkpoint: Path
    step: int
    kind: Kind
    cold: ColdStart | None
    batches: tuple[BatchTiming, ...]


@dataclass(frozen=True)
class Fastest:
    """The fastest network at one batch size.

    Attributes:
        batch_size: B.
        networks: its number; several if there is no significant difference, the one with the lowest median first.
        speedup: speed relative to the next network that is significantly slower; None if there is none.
    """

    batch_size: int
    networks: tuple[int, ...]
    speedup: float | None


@dataclass(frozen=True)
class Disturbance:
    """Cores used by other programs while one batch size was timed; None if the system does not report them."""

    batch_size: int
    other_cores: float | None


@dataclass(frozen=True)
class BenchResult:
    """The result of a comparison.

    Attributes:
        target: the input of the networks.
        networks: in the order named; the others are compared with the first.
        fastest: one entry per batch size; empty for a single network.
        disturbances: one entry per batch size.
        hardware: hardware of this process.
        versions: versions of the packages that ran the networks.
    """

    target: Target
    networks: tuple[NetworkTiming, ...]
    fastest: tuple[Fastest, ...]
    disturbances: tuple[Disturbance, ...]
    hardware: Hardware
    versions: dict[str, str]


def bench(
    networks: Sequence[OpenNetwork],
    target: Target,
    batch_sizes: Sequence[int],
    *,
    rounds: int,
    cold: Sequence[ColdStart] | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Time warm calls of the networks side by side, on one device.

    Args:
        networks: the networks to compare.
        target: their input, by ``read_target``.
        batch_sizes: images per call.
        rounds: rounds at each batch size.
        cold: the cold starts of the networks, measured before by ``cold_starts``.
        progress: called with (title, done, total).

    Raises:
        RuntimeCheckError: a batch does not fit into memory.
    """
    measured: dict[int, Rounds] = {}
    disturbances = []
    for size in batch_sizes:
        watch = start_watch()
        measured[size] = _measure(networks, target, size, rounds=rounds, progress=progress)
        disturbances.append(Disturbance(size, watch()))
    return BenchResult(
        target=target,
        networks=tuple(_network_timing(number, network, measured, cold) for number, network in enumerate(networks)),
        fastest=tuple(_fastest(size, found) for size, found in measured.items()) if len(networks) > 1 else (),
        disturbances=tuple(disturbances),
        hardware=hardware(),
        versions=versions() | dict(_onnxruntime_version(networks)),
    )


def _measure(
    networks: Sequence[OpenNetwork], target: Target, batch_size: int, *, rounds: int, progress: Progress | None
) -> Rounds:
    """Compile all networks for one batch size, then time them in turn."""
    title = f"batch {batch_size}"
    tell = progress or (lambda title, done, total: None)
    tell(title, 0, rounds)
    images = random_images(target, batch_size)
    calls = [network.call for network in networks]
    for call in calls:
        first_call(call, images)
    return time_rounds(calls, images, rounds=rounds, progress=lambda done: tell(title, done, rounds))


def _network_timing(
    number: int, network: OpenNetwork, measured: Mapping[int, Rounds], cold: Sequence[ColdStart] | None
) -> NetworkTiming:
    return NetworkTiming(
        checkpoint=network.checkpoint,
        step=network.step,
        kind=network.kind,
        cold=None if cold is None else cold[number],
        batches=tuple(_batch_timing(size, rounds, number) for size, rounds in measured.items()),
    )


def _batch_timing(batch_size: int, rounds: Rounds, network: int) -> BatchTiming:
    return BatchTiming(
        batch_size=batch_size,
        rounds=rounds.milliseconds.shape[1],
        calls_per_round=rounds.calls[network],
        milliseconds=rounds.time(network),
        ratio=rounds.speedup(network, over=0),
    )


def _fastest(batch_size: int, rounds: Rounds) -> Fastest:
    best, *level = rounds.fastest()
    slower = [network for network in range(len(rounds.calls)) if network not in (best, *level)]
    speedups = [rounds.speedup(best, over=network).median for network in slower]
    return Fastest(batch_size, (best, *level), min(speedups, default=None))


def _onnxruntime_version(networks: Sequence[OpenNetwork]) -> Iterator[tuple[str, str]]:
    if any(network.kind == "onnx" for network in networks):
        with suppress(importlib.metadata.PackageNotFoundError):  # builds for GPUs have other names
            yield "onnxruntime", importlib.metadata.version("onnxruntime")
