"""Damaged files given to the commands: exit code 1, or 2 for an option, and a message with a file and a reason.

What each loader does with many more of them is tested beside it.
"""

import json
import random
import shutil
from functools import partial

import numpy as np
import pytest
from hypothesis import strategies as st
from support.damage import changed_documents, damaged_bytes, damaged_documents, few_or_many, for_examples
from support.dataset_writers import cifar10_files, write_files, write_idx_folder, write_image_folder

from bncli import checkpoint
from bncli.checkpoint import read_layers
from bncli.cli import render
from bncli.config.document import sealed
from bncli.errors import BncliError
from bncli.inspection import inspect_stats
from bncli.inspection.history import layer_histories
from cli.conftest import TINY, invoke, succeed


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One epoch of a tiny network on digits, to be read only."""
    out = tmp_path_factory.mktemp("tiny") / "ckpt"
    succeed("train", "--epochs", 1, "--out", out, *TINY)
    return out


@pytest.fixture
def changed(run, tmp_path):
    """A copy of the run, to be changed."""
    return shutil.copytree(run, tmp_path / "ckpt")


def unsealed(document):
    """The text of a ``config.json`` without a sum, which is believed."""
    return json.dumps({name: value for name, value in document.items() if name != "sha256"})


def answer(*argv):
    """The exit code; whatever it is, nothing but a message has come of it."""
    result = invoke(*argv)
    said = " ".join(result.stderr.split())
    assert isinstance(result.exception, SystemExit | None), result.exception
    assert "Traceback" not in result.output
    assert "internal error" not in said
    assert result.exit_code in (0, 1), result.output
    assert (result.exit_code == 0) == ("error: " not in said), result.output
    return result.exit_code, said


# config.json


@pytest.mark.broad
@few_or_many(25, 200)
@pytest.mark.parametrize("command", [["eval"], ["inspect-stats", "--json"]], ids=lambda words: words[0])
def test_a_damaged_configuration(changed, command, count):
    path = changed / "config.json"
    sound = json.loads(path.read_text())

    def read(content):
        path.write_bytes(content)
        exit_code, said = answer(*command, changed)
        if exit_code:
            # What is wrong with a data set that it names, the data set's reader says.
            assert str(changed) in said or "the checkpoint" in said or "data set" in said, said
            assert "remedy: " in said

    for_examples(count, damaged_documents(sound, write=unsealed), read)


@pytest.mark.broad
@few_or_many(250, 1500)
def test_what_a_configuration_may_say_is_a_network_or_an_error(changed, count):
    """Only documents that can be read at all, which of those above one in twelve is."""
    path = changed / "config.json"
    sound = json.loads(path.read_text())
    outcomes = []

    def read(document):
        path.write_text(unsealed(document))
        try:
            checkpoint.read_config(changed)
        except BncliError:
            return
        try:
            inspect_stats(changed)
            outcomes.append("report")
        except BncliError as error:
            outcomes.append(str(error))

    for_examples(count, changed_documents(sound), read)
    assert "report" in outcomes
    assert len(set(outcomes)) > 2


def test_a_flipped_digit_in_the_configuration_is_noticed(changed):
    path = changed / "config.json"
    text = path.read_text()
    mean = json.loads(text)["preprocessing"]["mean"][0]
    assert str(mean) in text
    path.write_text(text.replace(str(mean), str(mean).replace("3", "4", 1)))
    for command in ("eval", "inspect-stats"):
        exit_code, said = answer(command, changed)
        assert exit_code == 1
        assert f"{path} is damaged or was edited: its SHA-256 is not that of its content" in said
        assert 'remove its line "sha256"' in said


# layers.jsonl, metrics.jsonl


@few_or_many(150, 2000)
def test_damaged_layers(changed, count):
    path = changed / "layers.jsonl"
    report = inspect_stats(changed)
    row = json.loads(path.read_text().splitlines()[0])
    outcomes = []

    def read(content):
        path.write_bytes(content)
        try:
            with_history = report.with_history(layer_histories(read_layers(changed)))
        except BncliError as error:
            outcomes.append(error.message)
            return
        outcomes.append(None)
        render.stats_text(with_history, everything=True, by_channel=False)
        render.stats_html(with_history)
        to_json = partial(render.stats_json, by_channel=False)
        render.emit(with_history, as_json=True, to_json=to_json, to_text=render.stats_text)  # refuses NaN

    rows = st.lists(damaged_documents(row), min_size=1, max_size=2)
    for_examples(count, rows.map(lambda rows: b"".join(row + b"\n" for row in rows)), read)
    assert None in outcomes
    refusals = [message for message in outcomes if message is not None]
    assert refusals
    assert all("layers.jsonl: " in message for message in refusals)


@pytest.mark.broad
@few_or_many(5, 30)
@pytest.mark.parametrize("name", ["layers.jsonl", "metrics.jsonl"])
def test_a_run_with_damaged_lines(changed, name, count):
    """``inspect-stats --history`` reads the layers; a resumed run both, and goes on or says which line is damaged."""
    path = changed / name
    sound = path.read_bytes()

    def read(content):
        path.write_bytes(content)
        for command in (["inspect-stats", changed, "--history"], ["train", "--resume", "--out", changed, *TINY[4:]]):
            exit_code, said = answer(*command)
            assert exit_code == 0 or "layers.jsonl: " in said

    for_examples(count, damaged_bytes(sound), read)


# Saves


def test_flipped_bits_in_a_save(run, changed):
    rng = random.Random(0)
    (step,) = checkpoint.complete_steps(run)
    for number in range(10):
        files = sorted(path for path in (changed / "steps").rglob("*") if path.is_file())
        path = files[number % len(files)]
        sound = path.read_bytes()
        flipped = bytearray(sound)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        exit_code, said = answer("eval", changed)
        assert exit_code == 1
        assert str(changed / "steps" / str(step)) in said
        path.write_bytes(sound)
    assert answer("eval", changed)[0] == 0


# --data

DAMAGED_DATA = {
    "an IDX cut short": ("idx/train-images-idx3-ubyte", lambda content: content[:-7]),
    "an IDX of terabytes": ("idx/train-images-idx3-ubyte", lambda content: content[:4] + b"\xff" * 12 + content[16:]),
    "an IDX that is a page": ("idx/train-labels-idx1-ubyte", lambda content: b"<html>"),
    "a CIFAR file cut short": ("cifar/data_batch_2.bin", lambda content: content[:-7]),
    "a CIFAR label of 200": ("cifar/data_batch_2.bin", lambda content: b"\xc8" + content[1:]),
    "an npz cut short": ("toy.npz", lambda content: content[:-40]),
    "an npz of other bytes": ("toy.npz", lambda content: content[:300] + bytes(40) + content[340:]),
    "an image cut short": ("images/train/cat/0.png", lambda content: content[:-60]),
    "an image that is none": ("images/test/dog/3.png", lambda content: b"\x89PNG\r\n\x1a\n" + bytes(30)),
    "an image of terapixels": (
        "images/train/cat/0.png",
        lambda content: content[:16] + b"\x00\x0f\xff\xff" * 2 + content[24:],
    ),
}


@pytest.mark.parametrize("what", DAMAGED_DATA)
def test_damaged_data(run, tmp_path, what):
    write_idx_folder(tmp_path / "idx", zipped=False)
    write_files(tmp_path / "cifar", cifar10_files())
    write_image_folder(tmp_path / "images")
    np.savez(tmp_path / "toy.npz", x_train=np.full((40, 8, 8), 7, np.uint8), y_train=np.arange(40) % 10)
    name, damage = DAMAGED_DATA[what]
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    source = tmp_path / name.split("/")[0]
    for command in (["eval", run], ["train", "--out", tmp_path / "out", *TINY]):
        exit_code, said = answer(*command, "--data", source)
        assert exit_code == 1
        assert str(path if source != tmp_path / "cifar" else source) in said
        assert "remedy: " in said
    assert not (tmp_path / "out").exists()


def test_a_sum_that_is_right_does_not_make_a_configuration_right(changed):
    path = changed / "config.json"
    document = json.loads(path.read_text())
    document["preprocessing"]["mean"] = [0.5, 0.5]
    path.write_text(sealed(document))
    exit_code, said = answer("eval", changed)
    assert exit_code == 1
    assert f"{path}: preprocessing: mean has 2 numbers for 1 channels" in said
