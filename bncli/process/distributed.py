"""Several processes that work as one: JAX's own distributed runtime, and what its users must agree on.

Every process runs the same program on the same mesh. So each decision must fall alike in all: those that depend on a
clock, a signal, a disk or a file are taken by one process, or by all together, with the functions here. With one
process each function returns its argument. Importing this module imports no JAX.
"""

from __future__ import annotations

import hashlib
import json
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from bncli.errors import BncliError, RuntimeCheckError
from bncli.process.liveness import Liveness, Loss

Result = TypeVar("Result")
Error = TypeVar("Error", bound=BncliError)

# Seconds to wait for the other processes at the start: schedulers start them one after the other.
START_SECONDS = 120
# JAX ends a process whose peers are silent for so long. ``liveness`` finds them sooner, and says which.
_HEARTBEAT_SECONDS = 100
_SHUTDOWN_SECONDS = 20
_TEXT_BYTES = 1 << 14  # an address
_NOT_READY = "Check that all processes are started with the same --coordinator and --num-processes, and reach it."


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """The processes of a run. What is None is detected by JAX: under Slurm, Open MPI, GKE and on TPU pods.

    Attributes:
        coordinator: HOST:PORT of process 0.
        num_processes: number of processes.
        process_id: of this one, from 0.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None


@dataclass
class Member:
    """This process as one of several.

    Attributes:
        cluster: the processes, as far as the user has named them.
        on_loss: called on a thread when another process has ended before its work was done.
        command: the command of bncli that this process runs, such as train.
        index: of this process, from 0; None before ``join`` if JAX is to detect it.
        count: number of processes; likewise.
        liveness: tells of the end of the others; None before ``watch``.
    """

    cluster: Cluster
    on_loss: Callable[[Loss], None]
    command: str = ""
    index: int | None = None
    count: int | None = None
    liveness: Liveness | None = field(default=None, repr=False)

    def join(self) -> None:
        """Join the other processes, once; nothing may have touched a device before.

        Raises:
            RuntimeCheckError: the coordinator cannot be reached, or the cluster is not known.
        """
        import jax

        if not jax.distributed.is_initialized():
            _check_coordinator(self.cluster)
            _initialize(self.cluster)

    def watch(self) -> None:
        """Connect the processes, once, so that each hears of the end of another.

        Raises:
            RuntimeCheckError: they cannot be connected, or run different commands.
        """
        import jax

        self.index, self.count = jax.process_index(), jax.process_count()
        if self.liveness is None and self.count > 1:
            server = Liveness.server(self.count, self.on_loss) if self.index == 0 else None
            address = _broadcast(server.address if server is not None else "")
            self.liveness = server or Liveness.peer(self.index, address, self.on_loss)
            self.liveness.start()
            _check_command(self.liveness.exchange(self.command))

    @property
    def loss(self) -> Loss | None:
        """The first process that has ended before its work was done; None if all are well."""
        return self.liveness.loss if self.liveness is not None else None


@dataclass
class _Process:
    """This process, which all of its threads share."""

    member: Member | None = None


_PROCESS = _Process()


def current() -> Member | None:
    """This process as one of several; None if it is alone."""
    return _PROCESS.member


@contextmanager
def member_of(cluster: Cluster, on_loss: Callable[[Loss], None], *, command: str) -> Iterator[Member]:
    """Let ``configure`` join the cluster.

    Args:
        cluster: the processes.
        on_loss: called on a thread when another process has ended before its work was done.
        command: the command of bncli that this process runs, such as train.
    """
    _PROCESS.member = member = Member(cluster, on_loss, command, cluster.process_id, cluster.num_processes)
    try:
        yield member
    finally:
        _PROCESS.member = None


def _check_command(commands: list[str]) -> None:
    """Raise RuntimeCheckError unless all processes run the same command."""
    for index, command in enumerate(commands):
        if command != commands[0]:
            raise RuntimeCheckError(
                f"process 0 runs bncli {commands[0]}, and process {index} bncli {command}",
                remedy="Give all processes the same command.",
            )


def _initialize(cluster: Cluster) -> None:
    import jax

    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.config.update("jax_enable_recoverability", True)  # else JAX aborts a process whose peer has ended
    jax.config.update("jax_enable_preemption_service", False)  # signals are handled by bncli
    try:
        jax.distributed.initialize(
            cluster.coordinator,
            cluster.num_processes,
            cluster.process_id,
            initialization_timeout=START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
            cluster_detection_method="deactivate" if cluster.coordinator else None,
        )
    except Exception as error:  # of whatever cluster JAX has detected, or not
        reason = " ".join(str(error).split())[:300]
        raise RuntimeCheckError(f"cannot join the other processes: {reason}", remedy=_NOT_READY) from error


def _broadcast(text: str) -> str:
    """The text of process 0, by a collective of JAX."""
    import numpy as np
    from jax.experimental import multihost_utils

    sent = np.zeros(_TEXT_BYTES, np.uint8)
    given = text.encode()
    sent[: len(given)] = np.frombuffer(given, np.uint8)
    received = np.asarray(multihost_utils.broadcast_one_to_all(sent)).astype(np.uint8)
    return received.tobytes().rstrip(b"\0").decode()


def _check_coordinator(cluster: Cluster) -> None:
    """Wait for the coordinator or, in process 0, see that its port is free.

    Raises:
        RuntimeCheckError: it is not there in time, or the port is taken.
    """
    if cluster.coordinator is None:
        return
    host, _, port = cluster.coordinator.rpartition(":")
    if cluster.process_id == 0:
        _check_free(int(port), cluster.coordinator)
        return
    end = time.monotonic() + START_SECONDS
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
        except OSError as error:
            if time.monotonic() > end or isinstance(error, socket.gaierror):
                raise RuntimeCheckError(
                    f"process {cluster.process_id} cannot reach the coordinator at {cluster.coordinator}: "
                    f"{error.strerror or error}",
                    remedy="Start process 0 there, and let the port through the firewall.",
                ) from error
            time.sleep(0.2)
        else:
            return


def _check_free(port: int, coordinator: str) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise RuntimeCheckError(
                f"--coordinator {coordinator}: cannot use port {port}: {error.strerror or error}",
                remedy="Name another port, the same in all processes.",
            ) from error


def is_first() -> bool:
    """True in process 0, which prints and writes for all, and in a process that is alone."""
    member = current()
    return member is None or member.index in (0, None)


def is_alone() -> bool:
    """True if there is no other process."""
    member = current()
    return member is None or member.count in (1, None)


def _exchanged(text: str) -> list[str]:
    """The texts of all processes; of this one alone before it has joined the others."""
    member = current()
    return [text] if member is None or member.liveness is None else member.liveness.exchange(text)


def barrier() -> None:
    """Wait until all processes have come here, however long it takes."""
    _exchanged("")


def maxima(values: Sequence[int]) -> tuple[int, ...]:
    """The largest of each value over all processes."""
    if is_alone():
        return tuple(values)
    rows = [map(int, text.split()) for text in _exchanged(" ".join(str(int(value)) for value in values))]
    return tuple(map(max, zip(*rows, strict=True)))


def text_from_first(text: str) -> str:
    """The text that process 0 gives."""
    return _exchanged(text)[0]


def error_of_first(error: Error | None, kind: type[Error]) -> Error | None:
    """The error that process 0 has, in all processes; None if it has none.

    Args:
        error: of this process.
        kind: the class of the error in the other processes.
    """
    told = text_from_first("" if error is None else json.dumps([error.message, error.remedy]))
    if not told or is_first():
        return error
    message, remedy = json.loads(told)
    return kind(message, remedy=remedy)


def by_first(act: Callable[[], Result], kind: type[BncliError]) -> Result | None:
    """The result of ``act`` in process 0, and None in the others, which wait for it and raise its error too.

    Args:
        act: runs in process 0 alone.
        kind: the class of its errors.
    """
    if is_alone():
        return act()
    result, error = None, None
    if is_first():
        try:
            result = act()
        except kind as raised:
            error = raised
    if (told := error_of_first(error, kind)) is not None:
        raise told
    return result


def check_same(facts: Mapping[str, str]) -> None:
    """Raise RuntimeCheckError unless each fact is the same in all processes; names the first that is not.

    Args:
        facts: what is compared, in words -> anything that identifies it, such as a SHA-256.
    """
    digests = [hashlib.sha256(text.encode()).hexdigest() for text in facts.values()]
    rows = [text.split() for text in _exchanged(" ".join(digests))]
    for place, name in enumerate(facts):
        others = [str(i) for i, row in enumerate(rows) if row[place] != rows[0][place]]
        if others:
            raise RuntimeCheckError(
                f"process{'es' * (len(others) > 1)} {', '.join(others[:8])} and process 0 do not have the same {name}",
                remedy="Give all processes the same command, code and data.",
            )


class InStep:
    """A jitted function whose first run waits until all processes have compiled it.

    The collectives of a CPU fail if a process comes 30 seconds after another, which compiling can take.
    """

    def __init__(self, jitted: Callable[..., Any]) -> None:
        self._jitted: Any = jitted
        self._compiled: dict[str, Callable[..., Any]] = {}

    def __call__(self, *arguments: object) -> Any:  # noqa: ANN401 - what the function returns
        """Its outputs."""
        if is_alone():
            return self._jitted(*arguments)
        import jax

        key = str(jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), arguments))
        if key not in self._compiled:
            self._compiled[key] = self._jitted.lower(*arguments).compile()
            barrier()
        return self._compiled[key](*arguments)
