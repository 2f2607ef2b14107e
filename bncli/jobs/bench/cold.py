"""The cold start of a network, measured in a process of its own with the compile cache off.

::

    process starts ── imports, JAX's backend ── opening ── first call at each batch size
                    │         start            │   open   │ compilation and one call

The process runs ``serve`` below.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from bncli.config.json_types import JSON
from bncli.config.unsaid import Unsaid
from bncli.errors import BncliError
from bncli.jobs.bench.networks import Target, first_call, open_network, random_images
from bncli.process.child import Answer, ChildError, End, ask_child
from bncli.process.configure import configure

_STATUS = Path("/proc/self/status")
# Runs in the other process.
_SERVE = "bncli.jobs.bench.cold:serve"


@dataclass(frozen=True)
class ColdStart:
    """The first use of a network in a new process, in seconds; the checkpoint may be in the system's file cache.

    Attributes:
        start: time for the interpreter, the imports and JAX's backend; JAX is imported for an ONNX model too.
        open: time for reading the checkpoint; onnxruntime prepares its model here.
        first_calls: time of the first call at each batch size, in the order measured: JAX traces and compiles, without
            its cache on disk.
        memory_before: bytes of host memory in use before opening; None if the system does not report it.
        memory_peak: the most bytes of host memory in use, compilation included; a GPU's memory is not counted.
    """

    start: float
    open: float
    first_calls: tuple[float, ...]
    memory_before: int | None
    memory_peak: int | None


def cold_starts(
    paths: Sequence[Path],
    target: Target,
    batch_sizes: Sequence[int],
    *,
    step: str = "best",
    model: str | None = None,
    unsaid: Unsaid | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[ColdStart, ...]:
    """Measure the cold start of each network, one process after the other.

    Call it before JAX starts in this process, which may then take the whole GPU or most of its memory.

    Args:
        paths: checkpoints, trained or folded, or exported ``model.onnx`` files.
        target: the input of the networks.
        batch_sizes: of the first calls.
        step: "best", "last" or the number of a step.
        model: the model's name, needed if the user's own code has moved or changed since training.
        unsaid: the facts that checkpoints of other programs do not say.
        progress: called with (title, done, total).
    """
    tell = progress or (lambda title, done, total: None)
    found: list[ColdStart] = []
    tell("cold start", 0, len(paths))
    for path in paths:
        found.append(measure_cold_start(path, target, batch_sizes, step=step, model=model, unsaid=unsaid))
        tell("cold start", len(found), len(paths))
    return tuple(found)


def measure_cold_start(
    path: Path,
    target: Target,
    batch_sizes: Sequence[int],
    *,
    step: str = "best",
    model: str | None = None,
    unsaid: Unsaid | None = None,
) -> ColdStart:
    """Measure the cold start of one network.

    Raises:
        BncliError: the network's process raised it, or ended without an answer.
    """
    request = {
        "path": str(path),
        "target": asdict(target),
        "batch_sizes": list(batch_sizes),
        "step": step,
        "model": model,
        "unsaid": asdict(unsaid or Unsaid()),
        "launched": time.monotonic(),  # the clock of the whole system, so that the other process can subtract it
    }
    try:
        document = ask_child(_SERVE, request).document
    except ChildError as error:
        raise _no_answer(path, error.end) from None
    return ColdStart(**{**document, "first_calls": tuple(document["first_calls"])})


def _no_answer(path: Path, end: End) -> BncliError:
    error = BncliError(
        f"{path}: while its cold start was measured, {end}",
        remedy="SIGKILL often means that memory ran out. --no-cold skips the cold start.",
    )
    error.add_note(end.printed)  # shown by --debug
    return error


def serve(request: JSON) -> Iterator[Answer]:
    """Measure the cold start of this process, which has just begun."""
    yield Answer(asdict(_measure_here(request)))


def _measure_here(request: JSON) -> ColdStart:
    target = Target(tuple(request["target"]["image_shape"]), request["target"]["precision"])
    configure(target.precision or "bfloat16")  # these settings are right for either
    _switch_cache_off()
    start = time.monotonic() - request["launched"]
    memory_before = _memory("VmRSS")
    begin = time.perf_counter()
    network = open_network(
        Path(request["path"]), step=request["step"], model=request["model"], unsaid=_unsaid(request["unsaid"])
    )
    seconds = time.perf_counter() - begin
    target = replace(target, precision=network.precision)
    first_calls = []
    for batch_size in request["batch_sizes"]:
        images = random_images(target, batch_size)
        begin = time.perf_counter()
        first_call(network.call, images)
        first_calls.append(time.perf_counter() - begin)
    return ColdStart(start, seconds, tuple(first_calls), memory_before, _memory("VmHWM"))


def _unsaid(document: JSON) -> Unsaid:
    """The facts in a request, with tuples where JSON has lists."""
    shape, mean, std = (document[name] and tuple(document[name]) for name in ("image_shape", "mean", "std"))
    return Unsaid(model_args=document["model_args"], image_shape=shape, mean=mean, std=std)


def _switch_cache_off() -> None:
    import jax

    jax.config.update("jax_enable_compilation_cache", False)


def _memory(field: str) -> int | None:
    """Return a field of Linux's process status in bytes: VmRSS is in use now, VmHWM was at the peak; None elsewhere.

    ``getrusage`` does not serve: its maximum is inherited from the process that started this one.
    """
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
