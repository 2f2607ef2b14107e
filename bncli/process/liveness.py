"""The connections between the processes of a run: the news that one has ended, and the words that they exchange.

A collective operation of JAX waits for all processes. If one is killed, the others would wait for minutes, and then end
with an error of the network. If one is late, on a CPU by 30 seconds, they fail too. So process 0 keeps a connection to
each of the others. A process that ends is named within seconds, and an exchange of words may take any time::

    process 1 ──beat, beat, …──> process 0 <──beat, beat, …── process 2
              <──beat, beat, …──           ──beat, beat, …──>

A connection that closes, or is silent for too long, tells of an end. Process 0 passes the news on.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass

from bncli.config.json_types import Document
from bncli.errors import RuntimeCheckError

# A process that sends no beat for SILENCE_SECONDS is lost: stopped, or its machine is gone.
BEAT_SECONDS = 5.0
SILENCE_SECONDS = 40.0
_CONNECT_SECONDS = 60.0
_CHUNK = 1 << 16
_MAX_LINE = 1 << 24
_SILENT = f"it has not answered for {SILENCE_SECONDS:.0f} s"
_KILLED = "it was killed, or it crashed"
LOST_REMEDY = "Its own output says more. Continue a training with --resume."


@dataclass(frozen=True)
class Loss:
    """The end of a process before its work was done.

    Attributes:
        process: its index.
        where: its host and pid, in words.
        reason: its error, or the way it went.
    """

    process: int
    where: str
    reason: str

    @property
    def is_sudden(self) -> bool:
        """True if the process could not tell why it ends."""
        return self.reason in (_SILENT, _KILLED)

    def __str__(self) -> str:
        """Such as ``process 1 (pid 17 on node3) has ended: it was killed, or it crashed``."""
        return f"process {self.process} ({self.where}) has ended: {self.reason}"


class Liveness:
    """The connections of one process.

    Attributes:
        address: as text, for the peers; "" in a peer.
        loss: the first that was heard of; None if all are well.
    """

    def __init__(self, index: int, token: str, on_loss: Callable[[Loss], None]) -> None:
        self.address = ""
        self.loss: Loss | None = None
        self._index = index
        self._token = token
        self._on_loss = on_loss
        self._lock = threading.Lock()
        self._is_over = threading.Event()
        self._links: dict[int, _Link] = {}
        self._listener: socket.socket | None = None
        self._expected = 0
        self._round = 0
        self._condition = threading.Condition()
        self._said: dict[int, dict[int, str]] = {}  # in process 0: round -> process -> its text
        self._heard: dict[int, list[str]] = {}  # round -> the texts of all

    @classmethod
    def server(cls, count: int, on_loss: Callable[[Loss], None]) -> Liveness:
        """That of process 0, which listens."""
        made = cls(0, secrets.token_hex(16), on_loss)
        made._listener = socket.create_server(("", 0), backlog=count)
        made._expected = count - 1
        port = made._listener.getsockname()[1]
        made.address = json.dumps({"hosts": _own_hosts(), "port": port, "token": made._token, "where": _here()})
        return made

    @classmethod
    def peer(cls, index: int, address: str, on_loss: Callable[[Loss], None]) -> Liveness:
        """That of another process.

        Args:
            index: of the process.
            address: of the server.
            on_loss: called on a thread with the first loss.

        Raises:
            RuntimeCheckError: process 0 cannot be reached.
        """
        target = json.loads(address)
        made = cls(index, str(target["token"]), on_loss)
        link = _Link(_connected(target["hosts"], int(target["port"])), 0, str(target["where"]))
        link.send({"token": made._token, "process": index, "where": _here()})
        made._links[0] = link
        return made

    def start(self) -> None:
        """Start to listen; the threads do not keep the process alive.

        Raises:
            RuntimeCheckError: in process 0, a peer does not connect.
        """
        if self._listener is not None:
            self._accept(self._listener)
        for link in self._links.values():
            threading.Thread(target=self._listen, args=(link,), name="bncli-liveness", daemon=True).start()
        threading.Thread(target=self._beat, name="bncli-beat", daemon=True).start()

    def exchange(self, text: str) -> list[str]:
        """The texts of all processes, in their order; each process must call it as often as the others.

        Raises:
            RuntimeCheckError: a process has ended.
        """
        number, self._round = self._round, self._round + 1
        if self._index == 0:
            self._collect(0, number, text)
        else:
            self._links[0].send({"round": number, "text": text})
        with self._condition:
            self._condition.wait_for(lambda: number in self._heard or self.loss is not None)
            if number not in self._heard:
                raise RuntimeCheckError(str(self.loss), remedy=LOST_REMEDY)
            return self._heard.pop(number)

    def _collect(self, process: int, number: int, text: str) -> None:
        """In process 0: note what a process says, and tell all once all have spoken."""
        with self._condition:
            said = self._said.setdefault(number, {})
            said[process] = text
            if len(said) <= self._expected:
                return
            texts = [said[index] for index in range(self._expected + 1)]
            del self._said[number]
            self._heard[number] = texts
            self._condition.notify_all()
        for link in self._links.values():
            link.send({"round": number, "texts": texts})

    def leave(self, reason: str = "") -> None:
        """Tell the others that this process ends: its work is done, or it has failed for a reason."""
        self._is_over.set()
        for link in list(self._links.values()):
            link.send({"end": reason})

    def wait_for_others(self, seconds: float) -> None:
        """Wait until the connections to all others are closed, for so long at most."""
        end = time.monotonic() + seconds
        while any(not link.is_closed for link in self._links.values()) and time.monotonic() < end:
            time.sleep(0.05)

    def close(self) -> None:
        """Close all connections."""
        self._is_over.set()
        for link in self._links.values():
            link.close()

    def _accept(self, listener: socket.socket) -> None:
        end = time.monotonic() + _CONNECT_SECONDS
        while len(self._links) < self._expected:
            listener.settimeout(max(0.1, end - time.monotonic()))
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                missing = sorted(set(range(1, self._expected + 1)) - set(self._links))
                raise RuntimeCheckError(
                    f"process {', '.join(map(str, missing))} did not connect within {_CONNECT_SECONDS:.0f} s",
                    remedy="Let the processes reach each other on all ports, as the collectives need too.",
                ) from None
            link = _Link(connection, -1, "")
            hello = link.receive(5.0)
            if hello is None or hello.get("token") != self._token:
                link.close()  # a stranger
                continue
            link.process, link.where = int(str(hello["process"])), str(hello["where"])
            self._links[link.process] = link
        listener.close()

    def _listen(self, link: _Link) -> None:
        while not self._is_over.is_set():
            message = link.receive(SILENCE_SECONDS)
            if message is None:
                reason = _SILENT if link.was_silent else _KILLED
                link.close()
                self._lost(Loss(link.process, link.where, reason))
                return
            self._hear(link, message)
            if "end" in message:
                link.has_left = True
                if message["end"]:
                    self._lost(Loss(link.process, link.where, str(message["end"])))
                break
        while link.receive(SILENCE_SECONDS) is not None:
            pass  # until the other end closes
        link.close()

    def _hear(self, link: _Link, message: Document) -> None:
        if "lost" in message:
            self._lost(Loss(**message["lost"]))
        if "text" in message:
            self._collect(link.process, int(str(message["round"])), str(message["text"]))
        if "texts" in message:
            with self._condition:
                self._heard[int(str(message["round"]))] = message["texts"]
                self._condition.notify_all()

    def _lost(self, loss: Loss) -> None:
        with self._lock:
            if self.loss is not None or self._is_over.is_set():
                self.loss = self.loss or loss
                return
            self.loss = loss
        with self._condition:
            self._condition.notify_all()
        for link in list(self._links.values()):
            if self._index == 0 and link.process != loss.process:
                link.send({"lost": asdict(loss)})
        self._on_loss(loss)

    def _beat(self) -> None:
        while not self._is_over.wait(BEAT_SECONDS):
            for link in list(self._links.values()):
                link.send({"beat": self._index})


class _Link:
    """One connection: a JSON document a line."""

    def __init__(self, connection: socket.socket, process: int, where: str) -> None:
        self.process = process
        self.where = where
        self.was_silent = False
        self.is_closed = False
        self.has_left = False
        self._socket = connection
        self._rest = b""
        self._lock = threading.Lock()

    def send(self, message: Document) -> None:
        """Send a message, if anybody is there."""
        with suppress(OSError), self._lock:
            self._socket.sendall(json.dumps(message).encode() + b"\n")

    def receive(self, seconds: float) -> Document | None:
        """The next message; None if the connection is closed, or silent for so long."""
        end = time.monotonic() + seconds
        while b"\n" not in self._rest:
            try:
                self._socket.settimeout(max(0.05, end - time.monotonic()))
                received = self._socket.recv(_CHUNK)
            except TimeoutError:
                self.was_silent = True
                return None
            except OSError:
                return None
            if not received or len(self._rest) > _MAX_LINE:
                return None
            self._rest += received
        line, _, self._rest = self._rest.partition(b"\n")
        try:
            message = json.loads(line)
        except ValueError:
            return None
        return message if isinstance(message, dict) else None

    def close(self) -> None:
        """Close the connection."""
        self.is_closed = True
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # a thread that waits for a message waits no longer
        with suppress(OSError):
            self._socket.close()


def _here() -> str:
    return f"pid {os.getpid()} on {socket.gethostname()}"


def _own_hosts() -> list[str]:
    """Names and addresses under which other machines, or this one, may reach this process."""
    name = socket.gethostname()
    found = [name, socket.getfqdn()]
    with suppress(OSError):
        found += [str(info[4][0]) for info in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)]
    return list(dict.fromkeys([*found, "127.0.0.1"]))


def _connected(hosts: list[str], port: int) -> socket.socket:
    end = time.monotonic() + _CONNECT_SECONDS
    while True:
        for host in hosts:
            with suppress(OSError):
                connection = socket.create_connection((host, port), timeout=3.0)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                return connection
        if time.monotonic() > end:
            raise RuntimeCheckError(
                f"cannot reach process 0 at {', '.join(hosts)}, port {port}",
                remedy="Let the processes reach each other on all ports, as the collectives need too.",
            )
        time.sleep(0.2)
