"""Checkpoints as other programs write them with Orbax and Flax, of a small network with made-up statistics."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import safetensors.flax
from flax import serialization, traverse_util
from flax.training import train_state

IMAGE_SHAPE = (8, 8, 1)
NET = """
import flax.linen as nn


class Net(nn.Module):
    num_classes: int = 3
    dtype: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Conv(4, (3, 3), use_bias=False, dtype=self.dtype)(x)
        x = nn.relu(nn.BatchNorm(use_running_average=not train, dtype=self.dtype)(x))
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


class Segmenter(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return nn.BatchNorm(use_running_average=not train)(nn.Conv(4, (3, 3))(x))
"""


class TrainState(train_state.TrainState):
    """The training state of Flax's own examples."""

    batch_stats: dict[str, Any]


def write_net(directory: Path) -> str:
    """Write ``NET`` into ``directory`` and return the model's name for ``--model``."""
    (directory / "net.py").write_text(NET)
    return f"{directory}/net.py:Net"


def make_variables(seed: int = 0) -> dict[str, Any]:
    """Variables of ``Net`` that look trained: random numbers, positive variances."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
        return rng.normal(size=shape).astype(np.float32)

    return {
        "params": {
            "Conv_0": {"kernel": normal(3, 3, 1, 4)},
            "BatchNorm_0": {"scale": normal(4), "bias": normal(4)},
            "Dense_0": {"kernel": normal(4, 3), "bias": normal(3)},
        },
        "batch_stats": {"BatchNorm_0": {"mean": normal(4), "var": np.exp(normal(4))}},
    }


def make_state(variables: Mapping[str, Any]) -> TrainState:
    """A training state whose optimizer, Adam, holds two arrays for each parameter."""
    adam = optax.adam(1e-3)
    state = adam.init(variables["params"])
    return TrainState(step=0, apply_fn=lambda: None, tx=adam, opt_state=state, **variables)


def save_item(path: Path, tree: object, **options: object) -> None:
    """Save one tree without a manager."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))


def save_old_item(path: Path, tree: object, *, use_ocdbt: bool) -> None:
    """One tree as Orbax before 0.5 left it: an index of placeholders in place of ``_METADATA``."""
    save_item(path, tree, use_ocdbt=use_ocdbt)
    (path / "_METADATA").unlink()
    state = serialization.to_state_dict(tree)
    index = jax.tree_util.tree_map_with_path(
        lambda keys, _: "PLACEHOLDER://" + ".".join(str(key.key) for key in keys), state
    )
    (path / "checkpoint").write_bytes(serialization.msgpack_serialize(index))


def save_standard(path: Path, tree: object) -> None:
    """Save one tree with the checkpointer that Orbax recommends."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree)


def save_steps(path: Path, saves: Mapping[int, object], **options: object) -> None:
    """Save a manager's directory from {step: arguments for Orbax}."""
    with ocp.CheckpointManager(path.absolute(), options=ocp.CheckpointManagerOptions(**options)) as manager:
        for step, args in saves.items():
            manager.save(step, args=args)
        manager.wait_until_finished()


def save_msgpack(path: Path, tree: object) -> None:
    """Save a file of ``flax.serialization``."""
    path.write_bytes(serialization.to_bytes(tree))


def save_safetensors(path: Path, tree: Mapping[str, Any], separator: str = ".") -> None:
    """Save a safetensors file under names that are paths."""
    safetensors.flax.save_file(traverse_util.flatten_dict(jax.tree.map(jnp.asarray, tree), sep=separator), path)
