"""The checkpoint directory: what is saved comes back to the bit, damage is named, and nothing else is ever removed."""

import json
import pickle
import shutil
from contextlib import contextmanager
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from tiny import CNN, run_config

from bncli import checkpoint
from bncli.config import ModelConfig
from bncli.errors import CheckpointError, ConfigError, ModelError
from bncli.models import model_file_sha256
from bncli.training.run import checkpoint_config

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


def test_a_trained_checkpoint_has_the_variables_the_run_ended_with(trained):
    loaded = checkpoint.load(trained.out, step="last")
    assert checkpoint.sha256_tree(loaded.variables["params"]) == trained.sha256.params
    assert checkpoint.sha256_tree(loaded.variables["batch_stats"]) == trained.sha256.batch_stats
    assert loaded.config == trained.config
    assert loaded.model.features == (4,)
    assert loaded.progress["best"]["epoch"] == trained.best.epoch
    images = np.zeros((2, 8, 8, 1), np.float32)
    np.testing.assert_array_equal(
        loaded.apply_fn(loaded.variables, images), loaded.model.apply(loaded.variables, images, train=False)
    )


def test_nothing_is_pickled(trained, monkeypatch):
    def forbidden(*args, **kwargs):
        raise AssertionError("a checkpoint was unpickled")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, forbidden)
    checkpoint.load(trained.out)
    assert not [path for path in trained.out.rglob("*") if path.suffix in (".pkl", ".pickle")]


ARRAYS = st.sampled_from(["<f4", "<f8", "<i4", "|u1", "|b1"]).flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=3))
)
TREES = st.dictionaries(st.text("abc", min_size=1, max_size=3), ARRAYS, min_size=1, max_size=4)


@given(tree=TREES)
def test_the_hash_is_of_names_dtypes_shapes_and_bytes_whatever_the_order_and_the_container(tree):
    digest = checkpoint.sha256_tree(tree)
    assert checkpoint.sha256_tree(dict(reversed(tree.items()))) == digest
    assert checkpoint.sha256_tree({name: np.array(leaf, order="F") for name, leaf in tree.items()}) == digest
    assert checkpoint.sha256_tree({n: leaf.astype(leaf.dtype.newbyteorder(">")) for n, leaf in tree.items()}) == digest
    name, leaf = next(iter(tree.items()))
    others = [
        {**tree, name: leaf[None]},
        {**tree, name: leaf.astype(np.complex128)},
        {**tree, "d": leaf},
        {("d" if key == name else key): value for key, value in tree.items()},
    ]
    if leaf.size:
        changed = leaf.copy().reshape(-1)
        changed.view(np.uint8)[0] ^= 1
        others.append({**tree, name: changed.reshape(leaf.shape)})
    assert digest not in [checkpoint.sha256_tree(other) for other in others]


def test_the_hash_tells_zeros_apart_and_is_that_of_device_arrays():
    assert checkpoint.sha256_tree({"a": np.float32(0.0)}) != checkpoint.sha256_tree({"a": np.float32(-0.0)})
    on_device = jax.tree.map(jnp.asarray, TREE)
    assert checkpoint.sha256_tree(on_device) == checkpoint.sha256_tree(TREE)


def test_the_hash_stays_what_it_is():
    """Published hashes must stay comparable: the format is in the docstring, this is its value."""
    import hashlib

    expected = hashlib.sha256(
        b"['a']['b'] int32 (2,)\n" + bytes([1, 0, 0, 0, 2, 0, 0, 0]) + b"['c'] float32 ()\n" + bytes(4)
    )
    tree = {"c": np.float32(0), "a": {"b": np.array([1, 2], np.int32)}}
    assert checkpoint.sha256_tree(tree) == expected.hexdigest()


# Damage.


def files_of(step_directory):
    return sorted(path for path in step_directory.rglob("*") if path.is_file())


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize(
    ("damage", "what"), [(flip, "is damaged"), (cut, "is damaged"), (lambda p: p.unlink(), "is missing")]
)
def test_damage_to_any_file_of_a_save_is_named(copied, damage, what):
    last = checkpoint.complete_steps(copied)[-1]
    folder = copied / "steps" / str(last)
    others = [step for step in checkpoint.complete_steps(copied) if step != last]
    assert len(files_of(folder)) > 5
    for path in files_of(folder):
        assert path.stat().st_size > 0, path
        original = path.read_bytes()
        damage(path)
        for step in ("best", "last"):  # "best" is looked up in the last save
            with pytest.raises(CheckpointError) as caught:
                checkpoint.load(copied, step=step)
            assert caught.value.message.startswith(f"{path} {what}")
            assert caught.value.remedy == f"Read another save: --step {others[-1]}."
        path.write_bytes(original)
    checkpoint.load(copied, step="last")


def test_an_added_file_is_named(copied):
    last = checkpoint.complete_steps(copied)[-1]
    added = copied / "steps" / str(last) / "variables" / "more"
    added.touch()
    with pytest.raises(CheckpointError, match="variables/more is not of this save"):
        checkpoint.load(copied, step="last")


@pytest.mark.parametrize("content", [b"", b"garbage", b"\xff\xfe\n\n", b"0" * 64 + b"  variables/gone\n"])
def test_a_damaged_manifest_is_named(copied, content):
    last = checkpoint.complete_steps(copied)[-1]
    manifest = copied / "steps" / f"{last}.sha256"
    manifest.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"its SHA-256 is not that of {manifest.name}"):
        checkpoint.load(copied, step="last")


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


@pytest.fixture
def full_disk():
    """Inside, no file can grow beyond 200 kB."""
    resource = pytest.importorskip("resource")  # POSIX alone

    @contextmanager
    def full_disk():
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return full_disk


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


# The directory.


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
    checkpoint.write_metrics(tmp_path, [{"epoch": 1}])
    checkpoint.append_metrics(tmp_path, {"epoch": 2})
    assert [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [
        {"epoch": 1},
        {"epoch": 2},
    ]
    checkpoint.write_metrics(tmp_path, [{"epoch": 1}])
    assert (tmp_path / "metrics.jsonl").read_text() == '{"epoch": 1}\n'
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]  # no temporary file is left


def test_a_directory_without_a_configuration_is_no_checkpoint(tmp_path):
    (tmp_path / "file").touch()
    for path, what in (
        (tmp_path, "holds no config.json"),
        (tmp_path / "gone", "is no directory"),
        (tmp_path / "file", "is no"),
    ):
        with pytest.raises(CheckpointError, match=f"{path} {what}") as caught:
            checkpoint.load(path)
        assert "bncli train" in caught.value.remedy


@pytest.mark.parametrize(("content", "error"), [(b"{", ConfigError), (b"\xff\xfe", CheckpointError)])
def test_a_configuration_that_cannot_be_read_is_named(copied, content, error):
    (copied / "config.json").write_bytes(content)
    with pytest.raises(error, match=r"config\.json"):
        checkpoint.load(copied)


# The user's own model.

NET = """
import flax.linen as nn

class Net(nn.Module):
    num_classes: int

    @nn.compact
    def __call__(self, x, train):
        x = nn.BatchNorm(use_running_average=not train)(x)
        return nn.Dense(self.num_classes)(x.reshape(len(x), -1))
"""


@pytest.fixture
def of_custom_model(copied, dataset, tmp_path):
    """(checkpoint directory, model file) of a model of the user's own; never trained."""
    file = tmp_path / "net.py"
    file.write_text(NET)
    config = checkpoint_config(run_config(model={**CNN, "args": {}, "name": f"{file}:Net"}), dataset)
    checkpoint.write_config(copied, config)
    return copied, file


def test_the_users_model_is_loaded_while_its_file_is_what_was_trained(of_custom_model):
    out, file = of_custom_model
    assert type(checkpoint.load(out).model).__name__ == "Net"
    assert checkpoint.read_config(out).model_sha256 == model_file_sha256(f"{file}:Net")


@pytest.mark.parametrize("change", ["changed", "missing"])
def test_other_code_is_not_run_unless_it_is_named(of_custom_model, change):
    out, file = of_custom_model
    trap = file.with_name("was_run")
    if change == "missing":
        file.unlink()
    else:
        file.write_text(f"open({str(trap)!r}, 'w').close()\n" + NET)
    with pytest.raises(ModelError, match=r"net\.py:Net is missing or has changed since training") as caught:
        checkpoint.load(out)
    assert f"--model {file}:Net" in caught.value.remedy
    assert not trap.exists()
    if change == "changed":
        assert checkpoint.load(out, model=f"{file}:Net").model is not None
        assert trap.exists()


def test_a_model_that_has_moved_is_loaded_from_where_it_is_named(of_custom_model, tmp_path):
    out, file = of_custom_model
    moved = file.rename(tmp_path / "moved.py")
    assert type(checkpoint.load(out, model=f"{moved}:Net").model).__name__ == "Net"


def test_a_configuration_that_names_an_unknown_model_is_refused(copied):
    config = checkpoint.read_config(copied)
    checkpoint.write_config(copied, replace(config, run=replace(config.run, model=ModelConfig(name=":Net"))))
    with pytest.raises(ModelError):
        checkpoint.load(copied)
