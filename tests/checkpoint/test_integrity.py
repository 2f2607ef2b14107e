"""What ``verify`` finds: nothing in a checkpoint as it was written, and every file that was changed."""

import shutil

import pytest

from bncli import checkpoint
from bncli.errors import CheckpointError


def damaged(directory):
    return {file.name: file.damage for file in checkpoint.verify_checkpoint(directory).damaged}


def test_a_checkpoint_as_it_was_written_is_whole(trained):
    report = checkpoint.verify_checkpoint(trained.out)
    assert report.damaged == ()
    assert report.readable_step == checkpoint.complete_steps(trained.out)[-1]
    names = [f"steps/{step}" for step in checkpoint.complete_steps(trained.out)]
    assert [file.name for file in report.files] == [*names, "config.json", "metrics.jsonl", "layers.jsonl"]
    for name, file in zip(names, report.files, strict=False):
        files = [path for path in (trained.out / name).rglob("*") if path.is_file()]
        assert (file.by, file.num_files) == ("sha256", len(files))
        assert file.num_bytes == sum(path.stat().st_size for path in files)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"{", "config.json: "),
        ("metrics.jsonl", b'{"epoch": 1}\n{"epoch": 3}\n', "metrics.jsonl: line 2 is not the row of epoch 2"),
        ("metrics.jsonl", b"[" * 100_000, "metrics.jsonl: line 1"),
        ("layers.jsonl", b"0\n", "layers.jsonl: line 1 is damaged"),
    ],
)
def test_damage_beside_the_saves_is_named(copied, name, content, words):
    (copied / name).write_bytes(content)
    found = damaged(copied)
    assert list(found) == [name]
    assert found[name].startswith(words)


def test_a_damaged_save_is_named_with_its_file_and_the_newest_whole_one_is_told(copied):
    *_, before, last = checkpoint.complete_steps(copied)
    path = copied / "steps" / str(last) / "progress" / "metadata"
    path.write_bytes(b"other")
    with pytest.warns(match="is read instead"):
        report = checkpoint.verify_checkpoint(copied)
    (found,) = report.damaged
    assert report.readable_step == before
    assert found.name == f"steps/{last}"
    assert found.damage.startswith(f"steps/{last}/progress/metadata is damaged")
    for step in checkpoint.complete_steps(copied):
        shutil.rmtree(copied / "steps" / str(step) / "variables")
    assert checkpoint.verify_checkpoint(copied).readable_step is None


def test_a_directory_that_is_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(CheckpointError, match="is not a checkpoint directory"):
        checkpoint.verify_checkpoint(tmp_path)
