"""Checkpoints as the users of NNX and Equinox save them, opened with their own model."""

import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.foreign_files import save_msgpack, save_safetensors, save_standard, save_steps
from support.framework_nets import write_net

from bncli.checkpoint import open_foreign
from bncli.config.settings import ModelConfig
from bncli.errors import CheckpointError, UsageError
from bncli.models import build_own_network

SHAPE = (8, 8, 1)
X = np.random.default_rng(0).normal(size=(3, *SHAPE)).astype(np.float32)
ARGS = {"num_classes": 3}


def opened(path, name):
    return open_foreign(path, model=ModelConfig(name=name, args=ARGS), image_shape=SHAPE, mean=(0.0,), std=(1.0,))


def class_of(name):
    """The user's class, as bncli imports it."""
    return build_own_network(name, ARGS).construction.target


@pytest.fixture(scope="module")
def nnx_net(tmp_path_factory):
    """(name for ``--model``, a module with statistics of its own, and dropout with a stream of random numbers)."""
    from flax import nnx

    directory = tmp_path_factory.mktemp("nnx")
    name = write_net(directory, "nnx")
    source = (directory / "nnx_net.py").read_text()
    source = source.replace("self.fc = ", "self.drop = nnx.Dropout(0.5, rngs=rngs)\n        self.fc = ")
    (directory / "nnx_net.py").write_text(
        source.replace("self.fc(nnx.relu(", "self.fc(self.drop(nnx.relu(").replace(".mean((1, 2))", ").mean((1, 2))")
    )
    module = class_of(name)(3, rngs=nnx.Rngs(0))
    module.bn.mean.set_value(jnp.arange(4.0))
    module.bn.var.set_value(jnp.arange(1.0, 5.0))
    return name, module


def as_state(module):
    from flax import nnx

    return nnx.split(module)[1]


def as_pure_dict(module):
    from flax import nnx

    return nnx.to_pure_dict(as_state(module))


def in_parts(module):
    """As `nnx.split` with filters parts it, beside an optimizer whose arrays have the same names."""
    from flax import nnx

    _, params, stats, _ = nnx.split(module, nnx.Param, nnx.BatchStat, ...)
    return {"params": params, "batch_stats": stats, "opt_state": {"mu": params}, "epoch": np.asarray(3)}


def beside_an_optimizer(module):
    return {"model": as_pure_dict(module), "opt_state": [{"mu": as_pure_dict(module)}]}


@pytest.mark.parametrize("form", [as_state, as_pure_dict, in_parts, beside_an_optimizer])
def test_a_state_of_nnx_saved_by_orbax_is_read(form, nnx_net, tmp_path):
    from flax import nnx

    name, module = nnx_net
    save_standard(tmp_path / "state", form(module))
    found = opened(tmp_path / "state", name)
    expected = nnx.view(module, use_running_average=True, deterministic=True)(X)
    np.testing.assert_allclose(found.apply_fn(found.variables, X), expected, atol=1e-6)


def test_a_state_of_nnx_is_found_in_a_manager_beside_other_items(nnx_net, tmp_path):
    import orbax.checkpoint as ocp

    name, module = nnx_net
    tree = {"model": as_pure_dict(module), "epoch": np.asarray(3)}
    save_steps(tmp_path / "runs", {7: ocp.args.StandardSave(tree)})
    found = opened(tmp_path / "runs", name)
    assert (found.step, found.notes[0]) == (7, "read from an Orbax directory, step 7, at model")


def test_arrays_that_are_not_the_modules_are_named(nnx_net, tmp_path):
    name, module = nnx_net
    tree = as_pure_dict(module)
    tree["conv"] = {"kernel": np.zeros((5, 5, 1, 4), np.float32)}
    save_standard(tmp_path / "state", tree)
    with pytest.raises(CheckpointError, match=r"params/conv/kernel is \(5, 5, 1, 4\), the model's \(3, 3, 1, 4\)"):
        opened(tmp_path / "state", name)


def test_without_a_model_the_remedy_is_to_name_it(nnx_net, tmp_path):
    save_standard(tmp_path / "state", as_pure_dict(nnx_net[1]))
    with pytest.raises(CheckpointError, match="holds no params: its keys are") as error:
        open_foreign(tmp_path / "state", model=None, image_shape=None)
    assert "--model file.py:Class" in error.value.remedy


@pytest.fixture(scope="module")
def equinox_net(tmp_path_factory):
    """(name for ``--model``, a model and its state after two updates)."""
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    name = write_net(tmp_path_factory.mktemp("equinox"), "equinox")
    model, state = eqx.nn.make_with_state(class_of(name))(3, jax.random.key(0))
    step = jax.vmap(model, axis_name="batch", in_axes=(0, None), out_axes=(0, None))
    for number in range(2):
        _, state = step(jnp.moveaxis(X, -1, 1) + number, state)
    return name, model, state


def written(equinox_net, before=b""):
    import equinox as eqx

    buffer = io.BytesIO()
    buffer.write(before)
    eqx.tree_serialise_leaves(buffer, equinox_net[1:])
    return buffer.getvalue()


@pytest.mark.parametrize("before", [b"", json.dumps({"width": 4}).encode() + b"\n"], ids=["plain", "hyperparameters"])
def test_a_file_of_equinox_is_read_with_its_model(equinox_net, before, tmp_path):
    import equinox as eqx

    name, model, state = equinox_net
    (tmp_path / "model.eqx").write_bytes(written(equinox_net, before))
    found = opened(tmp_path / "model.eqx", name)
    one = eqx.nn.inference_mode(model)
    expected = jax.vmap(lambda x: one(x, state)[0])(jnp.moveaxis(X, -1, 1))
    np.testing.assert_allclose(found.apply_fn(found.variables, X), expected, atol=1e-5)
    assert found.network.excess(found.variables)["bn"] == pytest.approx(0.81 / 0.19)


def test_a_model_of_equinox_without_its_state_is_named(equinox_net, tmp_path):
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    name, model, _ = equinox_net
    eqx.tree_serialise_leaves(tmp_path / "m.eqx", model)
    with pytest.raises(CheckpointError, match="holds a model without its state") as error:
        opened(tmp_path / "m.eqx", name)
    assert "(model, state)" in error.value.remedy


def test_a_file_of_equinox_is_not_of_a_linen_module(equinox_net, tmp_path):
    eqx = pytest.importorskip("equinox", reason="Equinox is not installed")
    eqx.tree_serialise_leaves(tmp_path / "m.eqx", equinox_net[1:])
    with pytest.raises(CheckpointError, match="is a file of Equinox, and the model is not of Equinox"):
        opened(tmp_path / "m.eqx", write_net(tmp_path, "linen"))


def test_a_file_of_equinox_asks_for_its_model(equinox_net, tmp_path):
    (tmp_path / "model.eqx").write_bytes(written(equinox_net))
    with pytest.raises(UsageError, match="is a file of Equinox, not bncli's own") as error:
        open_foreign(tmp_path / "model.eqx", model=None, image_shape=None)
    assert "--model file.py:Class and --input-shape H,W,C" in error.value.remedy


def shortened(content):
    return content[:-3]


def of_objects(content):
    buffer = io.BytesIO()
    np.save(buffer, np.array([{}], dtype=object), allow_pickle=True)
    return content + buffer.getvalue()


def too_large(content):
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f4", "fortran_order": False, "shape": (1 << 40,)})
    return content + buffer.getvalue()


def of_letters(content):
    return content + b"\x93NUMPY\x01\x00\x05\x00xxxxx"


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (shortened, "the file ends before"),
        (of_objects, "Python objects"),
        (too_large, "the file ends before"),
        (of_letters, "is damaged in its record"),
    ],
)
def test_a_damaged_file_of_equinox_names_its_record(equinox_net, damage, words, tmp_path):
    path = tmp_path / "model.eqx"
    path.write_bytes(damage(written(equinox_net)))
    with pytest.raises(CheckpointError, match=words) as error:
        opened(path, equinox_net[0])
    assert str(path) in str(error.value)
    assert "eqx.tree_serialise_leaves" in error.value.remedy


def test_another_models_file_is_refused_by_name(equinox_net, tmp_path):
    content = written(equinox_net)
    first = content.index(b"\x93NUMPY", 1)
    (tmp_path / "model.eqx").write_bytes(content[first:])
    with pytest.raises(CheckpointError, match=r"the arrays in .* are not those of"):
        opened(tmp_path / "model.eqx", equinox_net[0])


@pytest.mark.parametrize("save", [save_standard, save_msgpack, save_safetensors])
def test_params_and_state_of_haiku_are_read_with_its_function(save, tmp_path):
    hk = pytest.importorskip("haiku", reason="Haiku is not installed")
    name = write_net(tmp_path, "haiku")
    transformed = build_own_network(name, {}).transformed
    params, state = transformed.init(jax.random.key(0), X, True)
    _, state = transformed.apply(params, state, None, X + 1, True)
    assert isinstance(transformed, hk.TransformedWithState)
    save(tmp_path / "saved", {"params": params, "state": state})
    found = open_foreign(tmp_path / "saved", model=ModelConfig(name=name, args={}), image_shape=SHAPE)
    expected, _ = transformed.apply(params, state, None, X, False)
    np.testing.assert_allclose(found.apply_fn(found.variables, X), expected, atol=1e-6)
