"""Networks side by side: warm at each batch size, beside their cold starts."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from bncli.jobs.bench.cold import ColdStart
from bncli.jobs.bench.disturbance import start_watch
from bncli.jobs.bench.networks import Kind, OpenNetwork, Target, first_call, open_network, random_images
from bncli.jobs.bench.warm import Rounds, Spread, time_rounds
from bncli.process.hardware import Hardware, hardware, versions

Progress = Callable[[str, int, int], None]  # what, done, total


@dataclass(frozen=True)
class BatchTiming:
    """A network at one batch size.

    Attributes:
        batch_size: B.
        rounds: R.
        calls_per_round: a round's time is their mean.
        milliseconds: of one call, from images on the host to logits on the host.
        ratio: how many times as fast as the first network, taken within each round.
    """

    batch_size: int
    rounds: int
    calls_per_round: int
    milliseconds: Spread
    ratio: Spread

    @property
    def images_per_second(self) -> float:
        """B over the median time."""
        return self.batch_size / self.milliseconds.median * 1e3


@dataclass(frozen=True)
class NetworkTiming:
    """A network at all batch sizes, in the order asked for; ``cold`` is None where it was left out."""

    checkpoint: Path
    step: int
    kind: Kind
    cold: ColdStart | None
    batches: tuple[BatchTiming, ...]


@dataclass(frozen=True)
class Fastest:
    """Which network to take at one batch size.

    Attributes:
        batch_size: B.
        networks: their numbers: one, or several with no difference beyond the noise, that of the least median first.
        speedup: of the first over the next that is slower beyond the noise; None where there is none.
    """

    batch_size: int
    networks: tuple[int, ...]
    speedup: float | None


@dataclass(frozen=True)
class Disturbance:
    """How many cores other programs used while one batch size was timed; None where the system does not tell."""

    batch_size: int
    other_cores: float | None


@dataclass(frozen=True)
class BenchResult:
    """Networks side by side.

    Attributes:
        target: what they take.
        networks: in the order named; the first is what the others are compared with.
        fastest: one entry a batch size; none where there is one network.
        disturbances: one entry a batch size.
        hardware: what it ran on.
        versions: what it depended on.
    """

    target: Target
    networks: tuple[NetworkTiming, ...]
    fastest: tuple[Fastest, ...]
    disturbances: tuple[Disturbance, ...]
    hardware: Hardware
    versions: dict[str, str]


def bench(
    paths: Sequence[Path],
    target: Target,
    batch_sizes: Sequence[int],
    *,
    rounds: int,
    cold: Sequence[ColdStart] | None = None,
    step: str = "best",
    model: str | None = None,
    progress: Progress | None = None,
) -> BenchResult:
    """Networks side by side, warm; on one device, whatever their number.

    Args:
        paths: checkpoints, trained or folded, or exported ``model.onnx``.
        target: what they take, by ``read_target``.
        batch_sizes: images in a call.
        rounds: at each batch size.
        cold: by ``cold_starts``, measured before.
        step: "best", "last" or a step's number.
        model: the model's name, where the user's own code has moved or changed since training.
        progress: is told (what, done, total).

    Raises:
        CheckpointError: a checkpoint cannot be opened; names it.
        RuntimeCheckError: a batch does not fit into memory.
    """
    networks = [open_network(path, step=step, model=model) for path in paths]
    measured: dict[int, Rounds] = {}
    disturbances = []
    for size in batch_sizes:
        watch = start_watch()
        measured[size] = _measure(networks, target, size, rounds, progress)
        disturbances.append(Disturbance(size, watch()))
    return BenchResult(
        target=target,
        networks=tuple(
            NetworkTiming(
                checkpoint=path,
                step=network.step,
                kind=network.kind,
                cold=None if cold is None else cold[number],
                batches=tuple(_batch_timing(size, found, number) for size, found in measured.items()),
            )
            for number, (path, network) in enumerate(zip(paths, networks, strict=True))
        ),
        fastest=tuple(_fastest(size, found) for size, found in measured.items()) if len(paths) > 1 else (),
        disturbances=tuple(disturbances),
        hardware=hardware(),
        versions=versions() | dict(_onnxruntime_version(networks)),
    )


def _measure(
    networks: Sequence[OpenNetwork], target: Target, batch_size: int, rounds: int, progress: Progress | None
) -> Rounds:
    """Compiles all networks for a batch, and then times them in turn."""
    what = f"batch {batch_size}"
    tell = progress or (lambda what, done, total: None)
    tell(what, 0, rounds)
    images = random_images(target, batch_size)
    calls = [network.call for network in networks]
    for call in calls:
        first_call(call, images)
    return time_rounds(calls, images, rounds=rounds, progress=lambda done: tell(what, done, rounds))


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
        with suppress(importlib.metadata.PackageNotFoundError):  # its other builds have other names
            yield "onnxruntime", importlib.metadata.version("onnxruntime")
