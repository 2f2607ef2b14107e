"""The saves: what is saved comes back to the bit, damage is named, and only a complete save counts."""

import itertools
import json
import os
import re
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorstore

from bncli import checkpoint
from bncli.checkpoint.manifest import digests_below, manifest_text
from bncli.checkpoint.saves import read_save
from bncli.errors import BncliWarning, CheckpointError

TREE = {
    "params": {
        "layer": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3), "bias": np.array([np.nan, -0.0], np.float32)},
        "half": jnp.linspace(0, 1, 5, dtype=jnp.bfloat16),
    },
    "batch_stats": {},  # a network without BN
    "count": np.int32(7),
}
OPTIMIZER = {"opt_state": (np.ones(3, np.float32), {"trace": np.zeros((2, 2), np.float32)}), "step": np.int32(3)}


def save(out, step, *, progress=None, variables=TREE):
    checkpoint.save(out, step, variables=variables, optimizer=OPTIMIZER, progress=progress or {"best": None})


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A directory with one save, of step 3; only to be read."""
    out = tmp_path_factory.mktemp("saved")
    save(out, 3, progress={"best": {"step": 3}, "history": [1.5]})
    return out


def test_a_save_comes_back_to_the_bit(saved):
    variables = checkpoint.load_variables(saved, 3)
    assert checkpoint.sha256_tree(variables) == checkpoint.sha256_tree(TREE)
    assert variables["batch_stats"] == {}
    assert all(isinstance(leaf, np.ndarray | np.generic) for leaf in jax.tree.leaves(variables))
    assert checkpoint.read_progress(saved, 3) == {"best": {"step": 3}, "history": [1.5]}


def test_a_training_state_comes_back_into_the_trees_it_is_asked_for(saved):
    zeros = jax.tree.map(lambda leaf: jnp.zeros_like(leaf), {"variables": TREE, "optimizer": OPTIMIZER})
    variables, optimizer = checkpoint.restore_training(saved, 3, **zeros)
    assert checkpoint.sha256_tree(variables) == checkpoint.sha256_tree(TREE)
    assert checkpoint.sha256_tree(optimizer) == checkpoint.sha256_tree(OPTIMIZER)
    assert jax.tree.structure(optimizer) == jax.tree.structure(OPTIMIZER)


@pytest.mark.sample(1)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("orbax_leftovers")
@pytest.mark.parametrize("change", ["shape", "name", "missing"])
def test_a_save_of_another_network_is_refused(saved, change):
    variables = jax.tree.map(jnp.zeros_like, TREE)
    layer = variables["params"]["layer"]
    if change == "shape":
        layer["kernel"] = jnp.zeros((4, 3))
    elif change == "name":
        layer["weight"] = layer.pop("kernel")
    else:
        layer["more"] = jnp.zeros(3)
    with pytest.raises(CheckpointError, match="does not fit this network and optimizer") as caught:
        checkpoint.restore_training(saved, 3, variables=variables, optimizer=jax.tree.map(jnp.zeros_like, OPTIMIZER))
    assert "--out" in caught.value.remedy


# Damage.


def files_of(step_directory):
    return sorted(path for path in step_directory.rglob("*") if path.is_file())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.sample(1)
@pytest.mark.parametrize(
    ("damage", "what", "every"),
    [
        pytest.param(flip, "is damaged", 1, marks=pytest.mark.broad),
        (flip, "is damaged", 5),
        (cut, "is damaged", 4),
        (lambda path: path.unlink(), "is missing", 4),
    ],
)
def test_damage_to_any_file_of_a_save_is_named(copied, damage, what, every):
    last = checkpoint.complete_steps(copied)[-1]
    folder = copied / "steps" / str(last)
    others = [step for step in checkpoint.complete_steps(copied) if step != last]
    assert len(files_of(folder)) > 5
    for path in files_of(folder)[::every]:
        assert path.stat().st_size > 0, path
        original = path.read_bytes()
        damage(path)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load(copied, step=str(last))
        assert caught.value.message.startswith(f"{path} {what}")
        assert caught.value.remedy == f"Read another save: --step {others[-1]}."
        for step in ("best", "last"):  # "best" is looked up in the last save
            with pytest.warns(BncliWarning, match=f"{re.escape(str(path))} {what}.*; step .* is read instead"):
                assert checkpoint.load(copied, step=step).step in others
        path.write_bytes(original)
    assert checkpoint.load(copied, step="last").step == last


def test_where_no_save_is_whole_the_newest_is_named(copied):
    steps = checkpoint.complete_steps(copied)
    for step in steps:
        flip(files_of(copied / "steps" / str(step))[0])
    with pytest.raises(CheckpointError, match=rf"steps/{steps[-1]}/.* is damaged.*no other save is intact"):
        checkpoint.load(copied)


def test_a_damaged_best_save_is_replaced_by_the_newest_whole_one(tmp_path):
    save(tmp_path, 3)
    save(tmp_path, 5, progress={"best": {"step": 3}})
    assert checkpoint.find_step(tmp_path, "best") == 3
    flip(files_of(tmp_path / "steps" / "3")[0])
    with pytest.warns(BncliWarning, match="steps/3/.* is damaged.*; step 5 is read instead"):
        assert checkpoint.find_step(tmp_path, "best") == 5


def test_an_added_file_is_named(copied):
    last = checkpoint.complete_steps(copied)[-1]
    added = copied / "steps" / str(last) / "variables" / "more"
    added.touch()
    with pytest.raises(CheckpointError, match="variables/more is not of this save"):
        checkpoint.load(copied, step=str(last))


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe\n\n", b"0" * 64 + b"  variables/gone\n"])
def test_a_damaged_manifest_is_named(copied, content):
    last = checkpoint.complete_steps(copied)[-1]
    manifest = copied / "steps" / f"{last}.sha256"
    manifest.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"its SHA-256 is not the one in {manifest.name}"):
        checkpoint.load(copied, step=str(last))


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\x0b", 1),  # which Python takes for a line's end as well
        lambda text: text + text.splitlines()[0] + "\n",
        lambda text: text.removesuffix("\n"),
    ],
    ids=["separator", "twice", "end"],
)
def test_a_manifest_that_says_the_same_in_another_way_is_damaged(copied, change):
    last = checkpoint.complete_steps(copied)[-1]
    manifest = copied / "steps" / f"{last}.sha256"
    manifest.write_bytes(change(manifest.read_text()).encode())
    with pytest.raises(CheckpointError, match=rf"{manifest.name} is damaged"):
        checkpoint.verify(copied, last)


def test_a_manifest_that_is_gone_meanwhile_is_named(copied):
    last = checkpoint.complete_steps(copied)[-1]
    (copied / "steps" / f"{last}.sha256").unlink()
    with pytest.raises(CheckpointError, match=f"steps/{last} was removed while it was read"):
        checkpoint.verify(copied, last)


def test_a_progress_that_is_none_is_refused_though_its_manifest_is_right(tmp_path):
    save(tmp_path, 3)
    (tmp_path / "steps" / "3" / "progress" / "metadata").write_text("[" * 100_000)
    (tmp_path / "steps" / "3.sha256").write_text(manifest_text(digests_below(tmp_path / "steps" / "3")))
    with pytest.raises(CheckpointError, match="holds no progress of a run"):
        checkpoint.find_step(tmp_path, "best")


@pytest.mark.parametrize("best", [{}, {"step": None}, {"step": [3]}, [3], "3", 3])
def test_a_best_that_is_no_step_counts_for_none(tmp_path, best):
    save(tmp_path, 3, progress={"best": best})
    assert checkpoint.find_step(tmp_path, "best") == 3


def test_only_a_number_names_a_step(tmp_path):
    save(tmp_path, 3)
    for name in ("²", "03", "x", "-3", "٣"):
        (tmp_path / "steps" / name).mkdir()
        (tmp_path / "steps" / f"{name}.sha256").touch()
    assert checkpoint.complete_steps(tmp_path) == [3]


def test_a_save_without_a_manifest_is_incomplete_and_does_not_count(copied):
    *earlier, last = checkpoint.complete_steps(copied)
    (copied / "steps" / f"{last}.sha256").unlink()
    assert checkpoint.complete_steps(copied) == earlier
    assert checkpoint.load(copied, step="last").step == earlier[-1]
    with pytest.raises(CheckpointError, match=f"has no step '{last}'"):
        checkpoint.load(copied, step=str(last))
    shutil.rmtree(copied / "steps")
    with pytest.raises(CheckpointError, match="holds no complete save"):
        checkpoint.load(copied)


def test_a_manifest_without_its_save_does_not_count(copied):
    *earlier, last = checkpoint.complete_steps(copied)
    shutil.rmtree(copied / "steps" / str(last))
    assert checkpoint.complete_steps(copied) == earlier


def test_an_incomplete_save_is_written_again(tmp_path):
    (tmp_path / "steps" / "3" / "variables").mkdir(parents=True)
    (tmp_path / "steps" / "3" / "variables" / "half").touch()
    save(tmp_path, 3)
    assert checkpoint.sha256_tree(checkpoint.load_variables(tmp_path, 3)) == checkpoint.sha256_tree(TREE)


def test_a_save_that_fails_leaves_the_earlier_ones_and_can_be_done_again(tmp_path, full_disk):
    save(tmp_path, 3)
    large = {"noise": np.random.default_rng(0).random(100_000)}  # 800 kB
    with full_disk(), pytest.raises(CheckpointError, match=r"cannot save .*4: .*File too large") as caught:
        save(tmp_path, 4, variables=large)
    assert "--resume" in caught.value.remedy
    checkpoint.verify(tmp_path, 3)
    assert checkpoint.find_step(tmp_path, "best") == 3
    save(tmp_path, 4, variables=large)
    assert checkpoint.sha256_tree(checkpoint.load_variables(tmp_path, 4)) == checkpoint.sha256_tree(large)
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["3", "3.sha256", "4", "4.sha256"]


def seal(out, step):
    """Make the manifest of a save anew, so that it fits whatever lies there."""
    (out / "steps" / f"{step}.sha256").write_text(manifest_text(digests_below(out / "steps" / str(step))))


@pytest.mark.sample(2)
@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("orbax_leftovers")
@pytest.mark.parametrize(
    "content",
    ["", "{}", "[]", '{"tree_metadata": 3}', '{"tree_metadata": {"a": {}}}'],
)
@pytest.mark.parametrize("name", ["variables/_METADATA", "progress/metadata"])
def test_other_content_under_a_manifest_that_fits_is_refused(saved, tmp_path, name, content):
    out = shutil.copytree(saved, tmp_path / "ckpt")
    (out / "steps" / "3" / name).write_text(content)
    seal(out, 3)
    if name.startswith("progress") and content.startswith(("{", "[")):
        assert checkpoint.read_progress(out, 3) == json.loads(content or "{}") or content == "[]"  # it is any JSON
        return
    read = checkpoint.load_variables if name.startswith("variables") else checkpoint.read_progress
    with pytest.raises(CheckpointError, match=r"steps/3(/variables/_METADATA is damaged| holds no progress).*: "):
        read(out, 3)


@pytest.mark.parametrize("shape", [[1 << 44], [1 << 32]])
def test_arrays_that_claim_more_than_the_files_hold_are_not_restored(saved, tmp_path, monkeypatch, shape):
    monkeypatch.setattr("bncli.checkpoint.orbax_layout.available_memory", lambda: 1 << 40)
    out = shutil.copytree(saved, tmp_path / "ckpt")
    item = out / "steps" / "3" / "variables"
    database = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{item}/"}).result()
    key = b"params.layer.bias/.zarray"
    database.write(key, json.dumps(json.loads(database.read(key).result().value) | {"shape": shape})).result()
    seal(out, 3)
    with pytest.raises(CheckpointError, match=r"variables(: .* of memory needed|.* is damaged: .* cannot be arrays)"):
        checkpoint.load_variables(out, 3)


@pytest.mark.parametrize("what", ["a pipe", "a device", "a link to a file elsewhere", "a link to a folder elsewhere"])
def test_only_regular_files_of_the_save_itself_are_opened(saved, tmp_path, what):
    out = shutil.copytree(saved, tmp_path / "ckpt")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").touch()
    planted = out / "steps" / "3" / "variables" / "d" / "planted"
    if what == "a pipe":
        os.mkfifo(planted)
    else:
        planted.symlink_to(
            {"a device": "/dev/zero", "a link to a file elsewhere": tmp_path / "elsewhere" / "file"}.get(
                what, tmp_path / "elsewhere"
            )
        )
    with pytest.raises(CheckpointError, match=r"planted: (not a regular file|a symbolic link that leads out of its)"):
        checkpoint.load_variables(out, 3)


@pytest.mark.filterwarnings("ignore:coroutine:RuntimeWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.usefixtures("orbax_leftovers")
def test_a_reader_beside_a_training_that_keeps_one_save_never_fails(tmp_path):
    tree = {"params": {"a": np.ones(4, np.float32)}}
    stop = threading.Event()

    def train():
        for step in itertools.count(1):
            if stop.is_set():
                return
            checkpoint.save(tmp_path, step, variables=tree, optimizer=OPTIMIZER, progress={"best": {"step": step}})
            checkpoint.prune(tmp_path, keep=1, best_step=step)

    writer = threading.Thread(target=train)
    writer.start()
    try:
        while writer.is_alive() and not checkpoint.complete_steps(tmp_path):
            time.sleep(0.01)
        read = [read_save(tmp_path, which)[0] for _ in range(15) for which in ("best", "last")]
        found = [checkpoint.find_step(tmp_path, "best") for _ in range(30)]
    finally:
        stop.set()
        writer.join()
    assert read[-1] > read[0]
    assert found == sorted(found)


def test_saves_that_cannot_be_listed_are_an_error_and_not_missing(saved, tmp_path):
    """A folder that a user may not read; for root, who reads everything, a link in a circle."""
    out = tmp_path / "ckpt"
    out.mkdir()
    (out / "steps").symlink_to("steps")
    with pytest.raises(CheckpointError, match=rf"cannot read {out / 'steps'}: "):
        checkpoint.find_step(out, "best")


# Which save.


def test_the_steps_by_name_and_number(trained):
    steps = checkpoint.complete_steps(trained.out)
    assert checkpoint.load(trained.out).step == trained.best.step
    assert checkpoint.load(trained.out, step="last").step == steps[-1] == 12
    assert checkpoint.load(trained.out, step=str(steps[0])).step == steps[0]


@pytest.mark.parametrize("step", ["7", "", "-1", "first", "²", "12.0"])
def test_a_step_that_is_not_there_is_refused_with_those_that_are(trained, step):
    with pytest.raises(CheckpointError, match=rf"has no step '{step}'") as caught:
        checkpoint.load(trained.out, step=step)
    steps = ", ".join(map(str, checkpoint.complete_steps(trained.out)))
    assert caught.value.remedy == f"It has best, last, {steps}."


def test_the_last_stands_in_for_a_best_that_is_not_known_or_gone(tmp_path):
    save(tmp_path, 3, progress={"best": None})
    assert checkpoint.find_step(tmp_path, "best") == 3
    save(tmp_path, 5, progress={"best": {"step": 4}})
    assert checkpoint.find_step(tmp_path, "best") == 5


@pytest.mark.parametrize(
    ("keep", "best", "expected"),
    [(1, None, [9]), (1, 3, [3, 9]), (2, 9, [7, 9]), (2, 3, [3, 7, 9]), (4, 1, [1, 3, 7, 9]), (9, None, [1, 3, 7, 9])],
)
def test_prune_keeps_the_last_and_the_best(tmp_path, keep, best, expected):
    for step in (1, 3, 7, 9):
        (tmp_path / "steps" / str(step)).mkdir(parents=True)
        (tmp_path / "steps" / f"{step}.sha256").touch()
    checkpoint.prune(tmp_path, keep=keep, best_step=best)
    assert checkpoint.complete_steps(tmp_path) == expected
    assert len(list((tmp_path / "steps").iterdir())) == 2 * len(expected)


def test_statistics_of_a_save_that_is_written_again_are_gone_and_damaged_ones_are_not_read(tmp_path):
    save(tmp_path, 3, variables={"params": {"w": np.ones(2)}, "batch_stats": {"mean": np.zeros(2)}})
    checkpoint.save_precise_statistics(tmp_path, 3, {"mean": np.ones(2)})
    np.testing.assert_array_equal(checkpoint.load_variables(tmp_path, 3)["batch_stats"]["mean"], 1)
    flip(files_of(tmp_path / "steps" / "3.precise")[0])
    with pytest.warns(BncliWarning, match="steps/3.precise/.*; the running averages of step 3 are read instead"):
        np.testing.assert_array_equal(checkpoint.load_variables(tmp_path, 3)["batch_stats"]["mean"], 0)
    save(tmp_path, 3)
    assert not checkpoint.has_precise_statistics(tmp_path, 3)
    checkpoint.save_precise_statistics(tmp_path, 3, {"mean": np.ones(2)})
    (tmp_path / "steps" / "3.sha256").unlink()
    checkpoint.sweep(tmp_path)
    assert list((tmp_path / "steps").iterdir()) == []
