"""The directory: nothing else is ever removed, metrics are one line an epoch, a configuration that is bad is named."""

import json
import os

import pytest

from bncli import checkpoint
from bncli.checkpoint.directory import write_atomically
from bncli.errors import CheckpointError, ConfigError


def tree_of(directory):
    """Every file below, with its content."""
    return {path.relative_to(directory): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "files",
    [
        {"notes.txt": "mine"},
        {"config.json": "{}"},
        {"config.json": '{"schema": "another.program/1"}', "weights.bin": "mine"},
        {"config.json": "no JSON"},
        {"config.json": "[]"},
        {"steps/3/x": "mine"},
    ],
)
@pytest.mark.parametrize("overwrite", [False, True])
def test_what_is_no_checkpoint_is_never_removed(tmp_path, files, overwrite):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    before = tree_of(tmp_path)
    for refuse in (checkpoint.check_output, checkpoint.create_output):
        with pytest.raises(CheckpointError, match="is not empty and holds no checkpoint") as caught:
            refuse(tmp_path, overwrite=overwrite)
        assert caught.value.remedy == "Use another directory."
    assert tree_of(tmp_path) == before


def test_a_checkpoint_is_only_replaced_when_asked(copied):
    before = tree_of(copied)
    with pytest.raises(CheckpointError, match="already holds a checkpoint") as caught:
        checkpoint.create_output(copied, overwrite=False)
    assert caught.value.remedy == "Use --overwrite to replace it, or another directory."
    with pytest.raises(CheckpointError) as caught:
        checkpoint.check_output(copied, overwrite=False, can_resume=True)
    assert caught.value.remedy.startswith("Use --resume to go on with it, ")
    assert tree_of(copied) == before
    checkpoint.check_output(copied, overwrite=True)
    assert tree_of(copied) == before  # checking is not removing
    checkpoint.create_output(copied, overwrite=True)
    assert tree_of(copied) == {}


def test_a_new_or_an_empty_directory_is_taken_and_a_file_is_not(tmp_path):
    (tmp_path / "empty").mkdir()
    for out in (tmp_path / "empty", tmp_path / "new" / "deeper"):
        checkpoint.create_output(out, overwrite=False)
        assert (out / "steps").is_dir()
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="is a file"):
        checkpoint.create_output(tmp_path / "file", overwrite=True)
    with pytest.raises(CheckpointError, match=r"cannot create .*: \w+"):
        checkpoint.create_output(tmp_path / "file" / "below", overwrite=False)


def test_a_link_to_a_checkpoint_is_not_removed(copied, tmp_path):
    link = tmp_path / "link"
    link.symlink_to(copied, target_is_directory=True)
    before = tree_of(copied)
    with pytest.raises(CheckpointError, match=r"link is a symbolic link"):
        checkpoint.create_output(link, overwrite=True)
    assert tree_of(copied) == before


def test_metrics_are_one_line_an_epoch_and_can_be_written_anew(tmp_path):
    checkpoint.write_metrics(tmp_path, [{"epoch": 1}, {"epoch": 2}])
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"epoch": 1},
        {"epoch": 2},
    ]
    checkpoint.write_metrics(tmp_path, [{"epoch": 1}])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]  # no temporary file is left


def test_a_line_of_layers_that_was_cut_short_is_as_if_never_written(tmp_path):
    for epoch in (1, 2):
        checkpoint.append_layers(tmp_path, {"epoch": epoch, "layers": []})
    path = tmp_path / "layers.jsonl"
    path.write_bytes(path.read_bytes()[:-9])
    assert checkpoint.read_layers(tmp_path) == [{"epoch": 1, "layers": []}]
    checkpoint.append_layers(tmp_path, {"epoch": 2, "layers": [3]})
    assert checkpoint.read_layers(tmp_path) == [{"epoch": 1, "layers": []}, {"epoch": 2, "layers": [3]}]


def test_a_file_that_cannot_be_written_stays_as_it_was_and_leaves_nothing(tmp_path, full_disk):
    path = tmp_path / "config.json"
    write_atomically(path, b"before")
    with full_disk(), pytest.raises(OSError, match="File too large"):
        write_atomically(path, bytes(300_000))
    assert path.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_process_killed_at_its_start_has_left_is_in_nobodys_way(tmp_path):
    for name in (".lock", ".lock.json", "config.json.17.tmp"):
        (tmp_path / name).touch()
    checkpoint.check_output(tmp_path, overwrite=False)
    checkpoint.create_output(tmp_path, overwrite=False)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", ".lock.json", "steps"}


def test_what_lies_beside_a_checkpoint_and_is_not_of_it_stays(copied):
    (copied / "notes.md").write_text("mine")
    checkpoint.create_output(copied, overwrite=True)
    assert {path.name for path in copied.iterdir()} == {"notes.md", "steps"}


def test_a_checkpoint_is_not_replaced_by_what_is_made_of_one_inside_it(copied):
    with pytest.raises(CheckpointError, match="holds the checkpoint to work on"):
        checkpoint.check_output(copied, overwrite=True, source=copied / "steps")


def test_a_temporary_file_of_the_users_is_not_removed(tmp_path):
    (tmp_path / "thesis.tmp").touch()
    with pytest.raises(CheckpointError, match="is not empty and holds no checkpoint"):
        checkpoint.create_output(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.tmp").exists()


def test_a_directory_without_a_configuration_is_no_checkpoint(tmp_path):
    (tmp_path / "file").touch()
    for path, what in (
        (tmp_path, " holds no config.json"),
        (tmp_path / "gone", ": no such file or directory"),
        (tmp_path / "file", " is no"),
    ):
        with pytest.raises(CheckpointError, match=f"{path}{what}") as caught:
            checkpoint.load(path)
        assert "bncli train" in caught.value.remedy


@pytest.mark.parametrize(("content", "error"), [(b"{", ConfigError), (b"\xff\xfe", CheckpointError)])
def test_a_configuration_that_cannot_be_read_is_named(copied, content, error):
    (copied / "config.json").write_bytes(content)
    with pytest.raises(error, match=r"config\.json"):
        checkpoint.load(copied)


def test_a_configuration_too_large_to_be_one_is_not_read(copied):
    with (copied / "config.json").open("r+b") as file:
        file.truncate(1 << 40)  # a hole, which takes no space
    with pytest.raises(CheckpointError, match=r"config\.json is damaged: 1,099,511,627,776 bytes"):
        checkpoint.load(copied)


DAMAGED_LINES = {
    "no object": "1",
    "a list": "[]",
    "cut": "{",
    "no layers": '{"epoch": 1}',
    "an infinite epoch": '{"epoch": 1e999, "layers": []}',
    "layers that are none": '{"epoch": 1, "layers": 3}',
    "deep": "[" * 100_000,
    "a long number": f'{{"epoch": {"9" * 5000}, "layers": []}}',
    "a zero byte": "\x00",
}


@pytest.mark.parametrize("line", DAMAGED_LINES.values(), ids=DAMAGED_LINES)
def test_a_damaged_line_of_the_layers_is_named(tmp_path, line):
    (tmp_path / "layers.jsonl").write_text('{"epoch": 1, "layers": []}\n' + line + "\n")
    with pytest.raises(CheckpointError, match=r"layers\.jsonl: line 2 is damaged"):
        checkpoint.read_layers(tmp_path)


@pytest.mark.parametrize(
    ("name", "reason"), [("x" * 256, "too long"), (os.fsdecode(b"a\xff/ckpt"), "not UTF-8"), ("a\0b", "null")]
)
def test_a_name_that_no_checkpoint_can_have_is_refused_before_the_work(tmp_path, name, reason):
    with pytest.raises(CheckpointError, match=reason) as caught:
        checkpoint.check_output(tmp_path / name, overwrite=False)
    assert caught.value.remedy
    assert not list(tmp_path.iterdir())


def test_what_a_killed_fold_leaves_can_be_replaced(tmp_path):
    """It had the lock, which named it, and no configuration yet."""
    out = tmp_path / "out"
    (out / "steps" / "3.orbax-checkpoint-tmp").mkdir(parents=True)
    for name in (".lock", ".lock.json", "forward.stablehlo", "notes.txt"):
        (out / name).write_text("x")
    with pytest.raises(CheckpointError, match="already holds part of a checkpoint") as caught:
        checkpoint.check_output(out, overwrite=False)
    assert caught.value.remedy == "Use --overwrite to replace it, or another directory."
    checkpoint.check_output(out, overwrite=True)
    checkpoint.create_output(out, overwrite=True)
    assert sorted(path.name for path in out.iterdir()) == [".lock", ".lock.json", "notes.txt", "steps"]
    assert list((out / "steps").iterdir()) == []


def test_a_command_that_fails_leaves_an_empty_directory(tmp_path):
    def write():
        with checkpoint.new_output(tmp_path, overwrite=False):
            (tmp_path / "forward.stablehlo").write_text("x")
            (tmp_path / "notes.txt").write_text("mine")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


@pytest.mark.parametrize("name", ["config.json", "layers.jsonl"])
def test_a_pipe_in_place_of_a_file_is_not_opened(tmp_path, name):
    os.mkfifo(tmp_path / name)
    read = {"config.json": checkpoint.read_config, "layers.jsonl": checkpoint.read_layers}[name]
    with pytest.raises(CheckpointError, match=rf"cannot read {tmp_path / name}: .*not a regular file"):
        read(tmp_path)
    with pytest.raises(CheckpointError):
        checkpoint.check_output(tmp_path, overwrite=True)
