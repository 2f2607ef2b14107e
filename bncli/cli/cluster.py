"""Commands that run in several processes at once: their options, and the end of a process among others."""

from __future__ import annotations

import functools
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import typer

from bncli.errors import BncliError, RuntimeCheckError, UsageError
from bncli.process import distributed
from bncli.process.liveness import LOST_REMEDY

if TYPE_CHECKING:
    from bncli.process.liveness import Loss

PANEL = "Several processes"
Distributed = Annotated[
    Literal["auto"] | None,
    typer.Option(
        help="auto: this is one of several processes, as Slurm, Open MPI, GKE or a TPU pod tells.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
Coordinator = Annotated[
    str | None,
    typer.Option(
        metavar="HOST:PORT",
        help="Name the processes yourself: a free port on the machine of process 0.",
        rich_help_panel=PANEL,
        show_default=False,
    ),
]
NumProcesses = Annotated[
    int | None,
    typer.Option(help="With --coordinator, how many there are.", min=1, rich_help_panel=PANEL, show_default=False),
]
ProcessId = Annotated[
    int | None,
    typer.Option(
        help="With --coordinator, which one this is, from 0.", min=0, rich_help_panel=PANEL, show_default=False
    ),
]
_OPTIONS = {
    "distributed": Distributed,
    "coordinator": Coordinator,
    "num_processes": NumProcesses,
    "process_id": ProcessId,
}
# Seconds that the main thread has to end by itself after another process has ended, a save included.
_GRACE = 5.0
# Seconds in which the news of a lost process follows the error of the network that it causes.
_NEWS = 3.0


def with_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of a run in several processes."""
    own = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(**values: object) -> None:
        cluster = cluster_of(**{name: values.pop(name, None) for name in _OPTIONS})
        if cluster is None:
            command(**values)
            return
        with as_member(cluster, command=_name(command), debug=bool(values.get("debug"))):
            command(**values)

    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)
        for name, annotation in _OPTIONS.items()
    ]
    vars(run)["__signature__"] = own.replace(parameters=[*own.parameters.values(), *added])
    return run


def _name(command: Callable[..., None]) -> str:
    """The word of a command on the command line; the function of ``eval`` has another name than Python's own."""
    return command.__name__.replace("evaluate", "eval").replace("_", "-")


def cluster_of(
    *, distributed: object, coordinator: object, num_processes: object, process_id: object
) -> distributed.Cluster | None:
    """The processes that the options name; None if this process is alone.

    Raises:
        UsageError: the options do not fit together.
    """
    given = (coordinator, num_processes, process_id)
    if distributed is not None and any(value is not None for value in given):
        raise UsageError("--distributed auto and --coordinator exclude each other", remedy="Leave one out.")
    if distributed is not None:
        return _cluster()
    if all(value is None for value in given):
        return None
    if not isinstance(coordinator, str) or not isinstance(num_processes, int) or not isinstance(process_id, int):
        raise UsageError(
            "--coordinator, --num-processes and --process-id belong together",
            remedy="Give all three, or --distributed auto.",
        )
    host, _, port = coordinator.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise UsageError(f"--coordinator {coordinator}: must be HOST:PORT", remedy="Such as node1:8476.")
    if process_id >= num_processes:
        raise UsageError(
            f"--process-id {process_id}: there are {num_processes} processes", remedy="Number them from 0 on."
        )
    return _cluster(coordinator, num_processes, process_id)


def _cluster(
    coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None
) -> distributed.Cluster:
    return distributed.Cluster(coordinator=coordinator, num_processes=num_processes, process_id=process_id)


@contextmanager
def as_member(cluster: distributed.Cluster, *, command: str, debug: bool) -> Iterator[None]:
    """Run a command as one of several processes; if one of them fails, all end."""
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"  # what JAX says of a lost process, bncli says better
    with _own_stdout(), distributed.member_of(cluster, _end_after_loss, command=command) as member:
        try:
            yield
        except (typer.Exit, typer.BadParameter):
            if member.liveness is not None:
                member.liveness.leave()
            raise
        except BaseException as error:
            if member.liveness is None or debug:
                raise
            _end_after_error(member, error)
        _finish(member)


@contextmanager
def _own_stdout() -> Iterator[None]:
    """Keep stdout for the result: gloo prints its connections there."""
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):  # a stream without a file
        yield
        return
    sys.stdout.flush()
    result = os.dup(descriptor)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    before, sys.stdout = sys.stdout, open(result, "w", encoding=sys.stdout.encoding, errors=sys.stdout.errors)  # noqa: SIM115, PTH123 - a descriptor, closed below
    try:
        yield
    finally:
        sys.stdout.close()
        sys.stdout = before


def _finish(member: distributed.Member) -> None:
    """Part from the others after the work is done."""
    if member.liveness is None:
        return
    import jax

    distributed.barrier()
    member.liveness.leave()
    if member.index == 0:
        member.liveness.wait_for_others(_GRACE)
    with suppress(RuntimeError):  # a process that has left already
        jax.distributed.shutdown()
    member.liveness.close()


def _end_after_error(member: distributed.Member, error: BaseException) -> NoReturn:
    """Show the error or, if another process has caused it, the loss of that process; end this one."""
    assert member.liveness is not None
    own = isinstance(error, BncliError)
    loss = _news(member, seconds=0.0 if own and member.index == 0 else _NEWS)
    if loss is not None and not own:
        error = _lost(loss)
    told = isinstance(error, BncliError) and loss is not None and loss.reason == error.message
    code = error.exit_code if isinstance(error, BncliError) else 130 if isinstance(error, KeyboardInterrupt) else 1
    if not (told and own and member.index != 0):  # process 0 has shown it already
        _show_once(error)
    member.liveness.leave(error.message if isinstance(error, BncliError) else f"{type(error).__name__}: {error}"[:500])
    if member.index == 0:
        member.liveness.wait_for_others(2 * _GRACE)
    _exit(code)


def _news(member: distributed.Member, *, seconds: float) -> Loss | None:
    """The loss of another process, if it is heard of in time."""
    end = time.monotonic() + seconds
    while member.loss is None and time.monotonic() < end:
        time.sleep(0.05)
    return member.loss


def _end_after_loss(loss: Loss) -> None:
    """End this process after another one: called on a thread, while the main thread may wait for it forever."""
    # Without process 0, which alone saves, there is nothing to wait for, and JAX is about to abort the process.
    time.sleep(0.0 if loss.process == 0 and loss.is_sudden else _GRACE)
    _show_once(_lost(loss))
    _exit(1)


def _lost(loss: Loss) -> RuntimeCheckError:
    return RuntimeCheckError(str(loss), remedy=LOST_REMEDY)


_showing = threading.Lock()


def _show_once(error: BaseException) -> None:
    """Show the first error of this process; a second thread waits for the end."""
    from bncli.cli import display

    if not _showing.acquire(blocking=False):
        time.sleep(4 * _GRACE)
        return
    if isinstance(error, Exception):
        display.show_error(error)


def _exit(code: int) -> NoReturn:
    """End at once: Python's own end would wait for the collectives of processes that are gone."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
