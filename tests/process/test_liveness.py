"""The connections between processes, here between threads: exchanges, and the news of an end."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from bncli.errors import RuntimeCheckError
from bncli.process.liveness import Liveness


class Group:
    """Process 0 and its peers, connected."""

    def __init__(self, count):
        self.losses = [[] for _ in range(count)]
        self.heard = [threading.Event() for _ in range(count)]
        server = Liveness.server(count, self._noting(0))
        with ThreadPoolExecutor(count) as pool:
            starting = pool.submit(server.start)
            peers = [Liveness.peer(i, server.address, self._noting(i)) for i in range(1, count)]
            for peer in peers:
                peer.start()
            starting.result(30)
        self.members = [server, *peers]

    def _noting(self, index):
        def note(loss):
            self.losses[index].append(loss)
            self.heard[index].set()

        return note


@pytest.fixture
def group():
    made = Group(3)
    yield made
    for member in made.members:
        member.close()


def test_all_hear_the_texts_of_all_in_order(group):
    with ThreadPoolExecutor(3) as pool:
        for number in range(20):
            texts = [f"{index}/{number}" for index in range(3)]
            assert list(pool.map(Liveness.exchange, group.members, texts)) == [texts] * 3


def test_a_connection_that_closes_is_a_process_that_was_killed(group):
    group.members[1].close()
    for index in (0, 2):
        assert group.heard[index].wait(10)
        (loss,) = group.losses[index]
        assert loss.process == 1
        assert "it was killed, or it crashed" in str(loss)


def test_a_failed_process_tells_why(group):
    group.members[2].leave("the disk is full")
    assert group.heard[1].wait(10)
    assert "process 2 (pid" in str(group.losses[1][0])
    assert str(group.losses[1][0]).endswith("has ended: the disk is full")


def test_who_has_finished_is_not_missed(group):
    group.members[1].leave()
    group.members[1].close()
    assert not group.heard[0].wait(0.5)


def test_who_waits_for_a_lost_process_is_told(group):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(group.members[0].exchange, "anybody?")
        group.members[1].close()
        with pytest.raises(RuntimeCheckError, match="process 1"):
            waiting.result(10)


def test_a_stranger_is_not_admitted():
    server = Liveness.server(2, lambda loss: None)
    with ThreadPoolExecutor(1) as pool:
        starting = pool.submit(server.start)
        stranger = Liveness.peer(1, server.address.replace('"token": "', '"token": "x'), lambda loss: None)
        peer = Liveness.peer(1, server.address, lambda loss: None)
        starting.result(30)
    peer.start()
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(Liveness.exchange, (server, peer), "ab")) == [["a", "b"]] * 2
    for member in (server, peer, stranger):
        member.close()
