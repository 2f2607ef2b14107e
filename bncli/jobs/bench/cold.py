"""A cold start, measured where it is one: in a process of its own, with the compile cache off.

::

    process starts ── imports, JAX's backend ── opening ── first call at each batch size
                    │         start            │   open   │ compilation and one call

The process runs ``main`` below and leaves its answer in a file: stdout belongs to whatever a model of the user's own
prints.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bncli import errors
from bncli.errors import BncliError
from bncli.jobs.bench.networks import Target, first_call, open_network, random_images
from bncli.process.configure import configure

_STATUS = Path("/proc/self/status")
# The child finds modules where this process does: neither fewer (a checkout that is not installed) nor more.
_CODE = "import sys; sys.path[:] = {path!r}; from bncli.jobs.bench.cold import main; main()"


@dataclass(frozen=True)
class ColdStart:
    """The first use of a network in a new process, in seconds. The checkpoint's files may be in the system's cache.

    Attributes:
        start: the interpreter, the imports and JAX's backend. JAX is imported for an ONNX model too.
        open: reading the checkpoint; onnxruntime prepares its model here.
        first_calls: at each batch size, in that order: JAX traces and compiles, without its cache on disk.
        memory_before: bytes the process held before opening; None where the system does not tell.
        memory_peak: bytes it held at most, compilation included. On the host: a GPU's memory is not in it.
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
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[ColdStart, ...]:
    """The cold start of each network, one process after the other.

    To be called before JAX starts here: it may take the whole GPU, or most of its memory, for itself.

    Args:
        paths: checkpoints, trained or folded, or exported ``model.onnx``.
        target: what they take.
        batch_sizes: of the first calls.
        step: "best", "last" or a step's number.
        model: the model's name, where the user's own code has moved or changed since training.
        progress: is told (what, done, total).
    """
    tell = progress or (lambda what, done, total: None)
    found: list[ColdStart] = []
    tell("cold start", 0, len(paths))
    for path in paths:
        found.append(measure_cold_start(path, target, batch_sizes, step=step, model=model))
        tell("cold start", len(found), len(paths))
    return tuple(found)


def measure_cold_start(
    path: Path, target: Target, batch_sizes: Sequence[int], *, step: str = "best", model: str | None = None
) -> ColdStart:
    """The cold start of one network.

    Raises:
        BncliError: what the network's own process raised, or that it ended without an answer.
    """
    with tempfile.TemporaryDirectory() as directory:
        answer = Path(directory) / "answer.json"
        request = {
            "path": str(path),
            "target": asdict(target),
            "batch_sizes": list(batch_sizes),
            "step": step,
            "model": model,
            "answer": str(answer),
            "launched": time.monotonic(),  # of the whole system, so that the child can subtract it
        }
        command = [sys.executable, "-P", "-c", _CODE.format(path=sys.path), json.dumps(request)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if not answer.exists():
            raise _no_answer(path, child)
        return _cold_start(json.loads(answer.read_bytes()))


def _no_answer(path: Path, child: subprocess.CompletedProcess[str]) -> BncliError:
    lines = child.stderr.strip().splitlines() or ["no message"]
    error = BncliError(
        f"{path}: the process that measured its cold start ended with {child.returncode}: {lines[-1]}",
        remedy="A negative number is a signal, and -9 often a lack of memory. --no-cold leaves this out.",
    )
    error.add_note(child.stderr)  # shown by --debug
    return error


def _cold_start(answer: Mapping[str, Any]) -> ColdStart:
    if "error" in answer:
        raise getattr(errors, answer["error"])(answer["message"], remedy=answer["remedy"])
    return ColdStart(**{**answer, "first_calls": tuple(answer["first_calls"])})


def main() -> None:
    """What the process does: answers the request on its command line."""
    request = json.loads(sys.argv[1])
    try:
        answer = asdict(_measure_here(request))
    except BncliError as error:
        answer = {"error": type(error).__name__, "message": error.message, "remedy": error.remedy}
    Path(request["answer"]).write_text(json.dumps(answer))


def _measure_here(request: Mapping[str, Any]) -> ColdStart:
    """The cold start of this process, which has just begun."""
    target = Target(tuple(request["target"]["image_shape"]), request["target"]["precision"])
    configure(target.precision)
    _switch_cache_off()
    start = time.monotonic() - request["launched"]
    memory_before = _memory("VmRSS")
    begin = time.perf_counter()
    network = open_network(Path(request["path"]), step=request["step"], model=request["model"])
    seconds = time.perf_counter() - begin
    first_calls = []
    for batch_size in request["batch_sizes"]:
        images = random_images(target, batch_size)
        begin = time.perf_counter()
        first_call(network.call, images)
        first_calls.append(time.perf_counter() - begin)
    return ColdStart(start, seconds, tuple(first_calls), memory_before, _memory("VmHWM"))


def _switch_cache_off() -> None:
    import jax

    jax.config.update("jax_enable_compilation_cache", False)


def _memory(field: str) -> int | None:
    """Bytes of a field of Linux's process status: VmRSS held now, VmHWM held at most; None elsewhere.

    Not ``getrusage``: its maximum is inherited from the process that started this one.
    """
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)
