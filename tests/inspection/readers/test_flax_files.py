"""BN layers in what Orbax and Flax write, whoever called them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from support.foreign_files import (
    make_state,
    make_variables,
    save_item,
    save_msgpack,
    save_old_item,
    save_standard,
    save_steps,
)

from bncli.errors import CheckpointError
from bncli.inspection.readers import Asked, read

VARIABLES = make_variables()
STEPS = {step: ocp.args.StandardSave(make_variables(seed=step)) for step in (2, 9)}

WRITERS = {
    "orbax": (lambda path: save_item(path, VARIABLES), "orbax"),
    "orbax, of a state": (lambda path: save_standard(path, make_state(VARIABLES)), "orbax"),
    "msgpack": (lambda path: save_msgpack(path, VARIABLES), "flax-msgpack"),
    "msgpack, of a state": (lambda path: save_msgpack(path, make_state(VARIABLES)), "flax-msgpack"),
}


def check_against(layer, variables, name):
    """The layer has the numbers that the variables have."""
    for part, arrays in (("batch_stats", ("mean", "var")), ("params", ("scale", "bias"))):
        for array in arrays:
            np.testing.assert_array_equal(layer.stored()[array], np.asarray(variables[part][name][array]))


@pytest.mark.parametrize("name", WRITERS)
def test_the_layers_have_the_numbers_that_were_saved(name, tmp_path):
    write, file_format = WRITERS[name]
    write(tmp_path / "saved")
    contents = read(tmp_path / "saved", Asked())
    assert contents.format == file_format
    (layer,) = contents.layers
    assert layer.name == "BatchNorm_0"
    check_against(layer, VARIABLES, "BatchNorm_0")


def test_the_step_that_is_asked_for_is_read(tmp_path):
    save_steps(tmp_path / "run", STEPS)
    for step, seed in (("best", 9), ("2", 2)):
        (layer,) = read(tmp_path / "run", Asked(step=step)).layers
        check_against(layer, make_variables(seed=seed), "BatchNorm_0")
    with pytest.raises(CheckpointError, match="has no step '3'"):
        read(tmp_path / "run", Asked(step="3"))


def test_a_file_has_no_steps(tmp_path):
    save_msgpack(tmp_path / "saved", VARIABLES)
    with pytest.raises(CheckpointError, match="is a single save without steps, so it has no step '3'"):
        read(tmp_path / "saved", Asked(step="3"))


def test_layers_in_lists_are_read(tmp_path):
    save_standard(tmp_path / "saved", {"models": [VARIABLES, make_variables(seed=1)]})
    layers = read(tmp_path / "saved", Asked()).layers
    assert [layer.name for layer in layers] == ["models/0/BatchNorm_0", "models/1/BatchNorm_0"]
    check_against(layers[1], make_variables(seed=1), "BatchNorm_0")


@pytest.mark.parametrize("use_ocdbt", [True, False])
def test_what_orbax_wrote_before_0_5_is_read(use_ocdbt, tmp_path):
    for directory in (tmp_path / "saved", tmp_path / "run/2/default"):
        save_old_item(directory, make_state(VARIABLES), use_ocdbt=use_ocdbt)
    for path in (tmp_path / "saved", tmp_path / "run"):
        contents = read(path, Asked())
        assert contents.format == "orbax"
        (layer,) = contents.layers
        check_against(layer, VARIABLES, "BatchNorm_0")
    with pytest.raises(CheckpointError, match="is the index of an Orbax directory") as caught:
        read(tmp_path / "saved/checkpoint", Asked())
    assert str(tmp_path / "saved") in caught.value.remedy


def test_a_damaged_index_of_an_old_orbax_is_named(tmp_path):
    save_old_item(tmp_path / "saved", VARIABLES, use_ocdbt=True)
    index = tmp_path / "saved/checkpoint"
    index.write_bytes(index.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match="saved/checkpoint is damaged"):
        read(tmp_path / "saved", Asked())


class Deep(nn.Module):
    """Twelve layers, more than single digits count."""

    @nn.compact
    def __call__(self, x):
        for _ in range(12):
            x = nn.BatchNorm(use_running_average=False)(x)
        return x


def test_layers_come_in_the_order_of_their_numbers(tmp_path):
    save_msgpack(tmp_path / "saved", Deep().init(jax.random.key(0), jnp.ones((2, 3))))
    layers = read(tmp_path / "saved", Asked()).layers
    assert [layer.name for layer in layers] == [f"BatchNorm_{number}" for number in range(12)]


def test_layers_of_nn_scan_are_one_each(tmp_path):
    class Block(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            x = nn.Dense(3)(x)
            return nn.BatchNorm(use_running_average=False)(x), None

    stack = nn.scan(
        Block,
        variable_axes={"params": 0, "batch_stats": 0},
        split_rngs={"params": True},
        length=4,
        in_axes=nn.broadcast,
    )
    variables = stack().init(jax.random.key(0), jnp.ones((2, 3)), None)
    variables["batch_stats"]["BatchNorm_0"]["mean"] = jnp.arange(12.0).reshape(4, 3)
    save_msgpack(tmp_path / "saved", variables)
    layers = read(tmp_path / "saved", Asked()).layers
    assert [layer.name for layer in layers] == [f"BatchNorm_0[{number}]" for number in range(4)]
    np.testing.assert_array_equal(layers[2].mean, [6, 7, 8])


def test_a_module_of_flax_nnx_is_read(tmp_path):
    class Net(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(1, 3, (3, 3), rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(3, rngs=nnx.Rngs(0))

    net = Net()
    net.norm(jnp.arange(30.0).reshape(10, 3))
    save_item(tmp_path / "saved", nnx.to_pure_dict(nnx.state(net)))
    (layer,) = read(tmp_path / "saved", Asked()).layers
    assert layer.name == "norm"
    np.testing.assert_array_equal(layer.mean, np.asarray(net.norm.mean[...]))
    np.testing.assert_array_equal(layer.scale, np.ones(3))
