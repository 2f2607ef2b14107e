"""Orbax's directories: damage is named, a missing part is no zero, and a save under way does not count."""

import json
import os
import shutil

import numpy as np
import orbax.checkpoint as ocp
import pytest
from support.foreign_files import make_state, make_variables, save_item, save_standard, save_steps

from bncli.checkpoint import find_variables, orbax_layout, read_foreign, sha256_tree
from bncli.checkpoint.orbax_layout import METADATA, find_steps, read_items
from bncli.errors import CheckpointError

VARIABLES = make_variables()
KERNEL = "params.Dense_0.kernel"


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Both ways to store arrays, "database" and "directories"; only to be read."""
    path = tmp_path_factory.mktemp("saved")
    save_item(path / "database", VARIABLES)
    save_item(path / "directories", VARIABLES, use_ocdbt=False)
    return path


def test_what_lies_under_a_list_is_not_read(tmp_path):
    save_standard(tmp_path / "saved", make_state(VARIABLES))
    tree = read_items(tmp_path / "saved")
    assert set(tree) == {"params", "batch_stats", "step"}  # and no opt_state, twice their size


def test_an_empty_tree_and_a_text_are_no_arrays(tmp_path):
    save_item(tmp_path / "saved", {"params": {"a": np.ones(2)}, "batch_stats": {}, "name": "run", "none": None})
    tree = read_items(tmp_path / "saved")
    assert tree["batch_stats"] == {}
    assert set(tree) == {"params", "batch_stats"}


# Damage.


def change(path, **changes):
    """Changes fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def only_data_file(item):
    """The largest file of the database."""
    return max((item / "d").iterdir(), key=lambda path: path.stat().st_size)


def cut(path):
    path.write_bytes(path.read_bytes()[:-20])


def entry(*keys, key_type=2, value_type="jax.Array"):
    """A line of ``_METADATA``."""
    return {
        "key_metadata": [{"key": key, "key_type": key_type} for key in keys],
        "value_metadata": {"value_type": value_type},
    }


# what is done -> to which store, how, and what is then said
DAMAGE = {
    "no metadata": ("database", lambda d: (d / METADATA).unlink(), f"holds no tree of arrays.*{METADATA}"),
    "metadata cut": ("database", lambda d: cut(d / METADATA), rf"{METADATA} is damaged: JSONDecodeError"),
    "metadata empty": ("database", lambda d: (d / METADATA).write_bytes(b""), f"{METADATA} is damaged"),
    "metadata no text": ("database", lambda d: (d / METADATA).write_bytes(b"\xff\xfe\xff"), f"{METADATA} is damaged"),
    "metadata a list": ("database", lambda d: (d / METADATA).write_text("[]"), f"{METADATA} is damaged: TypeError"),
    "metadata deep": ("database", lambda d: (d / METADATA).write_text("[" * 99_999), f"{METADATA} is damaged"),
    "no tree": ("database", lambda d: (d / METADATA).write_text("{}"), "is damaged: KeyError: 'tree_metadata'"),
    "no keys": ("database", lambda d: change(d / METADATA, tree_metadata={"a": {}}), "KeyError: 'key_metadata'"),
    "no types": ("database", lambda d: change(d / METADATA, tree_metadata={"a": {"key_metadata": [3]}}), "TypeError"),
    "a value within a value": (
        "database",
        lambda d: change(d / METADATA, tree_metadata={"1": entry("a"), "2": entry("a", "b", value_type="Dict")}),
        "lies within a value",
    ),
    "an array that is not there": (
        "database",
        lambda d: change(d / METADATA, tree_metadata={"1": entry("a", "b")}),
        "cannot read the array a.b: NOT_FOUND",
    ),
    "a name that is no file": (
        "directories",
        lambda d: change(d / METADATA, tree_metadata={"1": entry("..\0/etc")}),
        "cannot read the array",
    ),
    "no manifest": ("database", lambda d: (d / "manifest.ocdbt").unlink(), r"manifest\.ocdbt is missing"),
    "manifest cut": ("database", lambda d: cut(d / "manifest.ocdbt"), r"cannot read the array .*manifest\.ocdbt"),
    "no data": ("database", lambda d: only_data_file(d).unlink(), "cannot read the array .*NOT_FOUND"),
    "data cut": ("database", lambda d: only_data_file(d).write_bytes(b""), "cannot read the array "),
    "no array": ("directories", lambda d: shutil.rmtree(d / KERNEL), f"cannot read the array {KERNEL}: NOT_FOUND"),
    "no chunk": ("directories", lambda d: (d / KERNEL / "0.0").unlink(), f"cannot read the array {KERNEL}: NOT_FOUND"),
    "chunk cut": ("directories", lambda d: cut(d / KERNEL / "0.0"), f"cannot read the array {KERNEL}"),
    "an array of terabytes": (
        "directories",
        lambda d: change(d / KERNEL / ".zarray", shape=[2**40, 3], chunks=[2**20, 3]),
        r"of memory needed for its arrays, .* available",
    ),
    "a chunk of terabytes": (
        "directories",
        lambda d: change(d / KERNEL / ".zarray", chunks=[2**40, 3]),
        r"of memory needed for its arrays, .* available",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_named_without_a_word_of_orbax(name, saved, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(orbax_layout, "available_memory", lambda: 2**34)
    store, damage, words = DAMAGE[name]
    copy = shutil.copytree(saved / store, tmp_path / "copy")
    damage(copy)
    with pytest.raises(CheckpointError, match=words) as caught:
        read_foreign(copy)
    assert str(copy) in caught.value.message
    assert "tensorstore_spec" not in caught.value.message
    assert caught.value.remedy.startswith("Restore it from a copy")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("store", ["database", "directories"])
def test_whichever_file_is_lost_the_variables_are_whole_or_refused(store, saved, tmp_path):
    files = [path.relative_to(saved / store) for path in (saved / store).rglob("*") if path.is_file()]
    outcomes = set()
    for file in files:
        copy = shutil.copytree(saved / store, tmp_path / str(file).replace("/", "_"))
        (copy / file).unlink()
        try:
            assert sha256_tree(find_variables(read_foreign(copy))[1]) == sha256_tree(VARIABLES), file
            outcomes.add("whole")
        except CheckpointError:
            outcomes.add("refused")
    assert outcomes == {"whole", "refused"}


def images(path):
    (path / "class_0").mkdir(parents=True)
    (path / "class_0" / "1.png").touch()


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), images], ids=["empty", "images"])
def test_a_directory_that_is_no_checkpoint_is_named(make, tmp_path):
    make(tmp_path / "directory")
    with pytest.raises(CheckpointError, match=r"directory holds no tree of arrays"):
        read_foreign(tmp_path / "directory")


# Steps.


@pytest.fixture
def steps(tmp_path):
    """A manager's directory with the steps 1 and 2, for a test to change."""
    save_steps(tmp_path / "run", {step: ocp.args.StandardSave(VARIABLES) for step in (1, 2)})
    return tmp_path / "run"


def test_a_save_under_way_does_not_count(steps):
    shutil.copytree(steps / "2", steps / "3.orbax-checkpoint-tmp")
    shutil.copytree(steps / "2", steps / "4.orbax-checkpoint-tmp-1700000000")
    assert list(find_steps(steps)) == [1, 2]
    for step in ("1", "2"):
        (steps / step / "commit_success.txt").touch()
    shutil.copytree(steps / "2", steps / "5", ignore=shutil.ignore_patterns("commit_success.txt"))
    assert list(find_steps(steps)) == [1, 2]


def test_a_newest_save_that_is_damaged_is_refused_and_not_passed_over(steps):
    (steps / "2" / "default" / METADATA).unlink()
    with pytest.raises(CheckpointError, match=r"run/2 holds no tree of arrays") as caught:
        read_foreign(steps)
    assert "--step" in caught.value.remedy
    assert read_foreign(steps, step="1").step == 1


@pytest.mark.parametrize("what", ["a pipe", "a link that leads out"])
def test_what_is_no_file_of_the_directory_is_not_opened(saved, tmp_path, what):
    path = shutil.copytree(saved / "directories", tmp_path / "saved")
    chunk = path / KERNEL / "0.0"
    chunk.unlink()
    if what == "a pipe":
        os.mkfifo(chunk)
    else:
        chunk.symlink_to(saved / "directories" / KERNEL / "0.0")
    with pytest.raises(CheckpointError, match=rf"{chunk}: (not a regular file|a symbolic link that leads out)"):
        read_foreign(path)


def test_a_link_within_the_directory_is_followed(saved, tmp_path):
    path = shutil.copytree(saved / "directories", tmp_path / "saved")
    chunk = path / KERNEL / "0.0"
    chunk.rename(path / "chunk")
    chunk.symlink_to(path / "chunk")
    assert sha256_tree(read_items(path)) == sha256_tree(VARIABLES)
