"""The work is divided: each example of an epoch goes to exactly one process, exactly once."""

import socket

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bncli.data.batches import epoch_batches
from bncli.errors import CheckpointError, RuntimeCheckError
from bncli.process import distributed
from bncli.process.distributed import Cluster, Member
from bncli.process.launcher import free_port
from bncli.process.mesh import rows_of_process


@given(
    num_examples=st.integers(1, 200),
    per_device=st.integers(1, 9),
    devices_of=st.lists(st.integers(1, 4), min_size=1, max_size=5),
    seed=st.integers(0, 1000),
)
def test_each_example_is_read_once_an_epoch_by_one_process(num_examples, per_device, devices_of, seed):
    owners = [process for process, devices in enumerate(devices_of) for _ in range(devices)]
    batch_size = per_device * len(owners)
    order = np.random.default_rng(seed).permutation(num_examples).astype(np.int32)
    read: list[list[int]] = [[] for _ in devices_of]
    for batch in epoch_batches(order, batch_size):
        parts = [rows_of_process(owners, process, batch_size) for process in range(len(devices_of))]
        assert np.concatenate([batch.indices[rows] for rows in parts]).tolist() == batch.indices.tolist()
        assert {len(batch.indices[rows]) % per_device for rows in parts} == {0}  # no process waits for another's rows
        for process, rows in enumerate(parts):
            read[process] += batch.indices[rows][batch.real[rows]].tolist()
    assert sorted(index for own in read for index in own) == list(range(num_examples))


def test_a_process_alone_agrees_with_itself():
    assert distributed.is_first()
    assert distributed.is_alone()
    assert distributed.maxima((3, True)) == (3, 1)
    assert distributed.text_from_first("word") == "word"
    assert distributed.by_first(lambda: 7, CheckpointError) == 7
    distributed.barrier()
    distributed.check_same({"data": "a"})


def test_a_coordinator_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(distributed, "START_SECONDS", 0.1)
    cluster = Cluster(coordinator=f"127.0.0.1:{free_port()}", num_processes=2, process_id=1)
    with pytest.raises(RuntimeCheckError, match="process 1 cannot reach the coordinator at"):
        Member(cluster, lambda loss: None).join()


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        cluster = Cluster(coordinator=f"127.0.0.1:{port}", num_processes=2, process_id=0)
        with pytest.raises(RuntimeCheckError, match=f"cannot use port {port}"):
            Member(cluster, lambda loss: None).join()


class Line:
    """The connections of process 1 of 2, where process 0 says what is given."""

    def __init__(self, *said):
        self.said = list(said)

    def exchange(self, text):
        return [self.said.pop(0), text]


@pytest.fixture
def second(monkeypatch):
    """This process as the second of two."""

    def be(*said):
        member = Member(Cluster(), lambda loss: None, "train", 1, 2, Line(*said))
        monkeypatch.setattr(distributed._PROCESS, "member", member)

    return be


def test_the_error_of_process_0_is_raised_in_all(second):
    second('["cannot save ckpt: No space left", "Free some space."]')
    with pytest.raises(CheckpointError, match="No space left") as raised:
        distributed.by_first(lambda: pytest.fail("process 1 acted"), CheckpointError)
    assert raised.value.remedy == "Free some space."


def test_a_stop_that_one_process_is_asked_for_stops_all(second):
    second("130 0")
    assert distributed.maxima((0, False)) == (130, 0)


def test_processes_with_other_data_are_refused(second):
    facts = {"settings": "s", "data": "d"}
    texts = []
    second("")
    distributed.current().liveness.exchange = lambda text: [texts.append(text) or text, text]
    distributed.check_same(facts)
    second(texts[0])
    with pytest.raises(RuntimeCheckError, match="process 1 and process 0 do not have the same data"):
        distributed.check_same({**facts, "data": "other"})


def test_another_command_is_named():
    distributed._check_command(["train", "train"])
    with pytest.raises(RuntimeCheckError, match="process 0 runs bncli train, and process 1 bncli eval"):
        distributed._check_command(["train", "eval"])
