"""Checkpoints as other programs write them, by Orbax and Flax, of a small network whose statistics are not Flax's."""

import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import serialization
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
    """As the examples of Flax have it."""

    batch_stats: dict


def write_net(directory):
    """The model's name, its code in ``directory``."""
    (directory / "net.py").write_text(NET)
    return f"{directory}/net.py:Net"


def make_variables(seed=0):
    """Trained ones, as it were, of ``Net``."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return rng.normal(size=shape).astype(np.float32)

    return {
        "params": {
            "Conv_0": {"kernel": normal(3, 3, 1, 4)},
            "BatchNorm_0": {"scale": normal(4), "bias": normal(4)},
            "Dense_0": {"kernel": normal(4, 3), "bias": normal(3)},
        },
        "batch_stats": {"BatchNorm_0": {"mean": normal(4), "var": np.exp(normal(4))}},
    }


def make_state(variables):
    """A training state with an optimizer of as many arrays again, twice."""
    return TrainState.create(apply_fn=lambda: None, tx=optax.adam(1e-3), **variables)


def save_item(path, tree, **options):
    """One tree, without a manager."""
    with ocp.Checkpointer(ocp.PyTreeCheckpointHandler(**options)) as checkpointer:
        checkpointer.save(path.absolute(), args=ocp.args.PyTreeSave(tree))


def save_standard(path, tree):
    """One tree, by the checkpointer that Orbax recommends."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.absolute(), tree)


def save_steps(path, saves, **options):
    """A manager's directory of {step: Orbax's arguments}."""
    with ocp.CheckpointManager(path.absolute(), options=ocp.CheckpointManagerOptions(**options)) as manager:
        for step, args in saves.items():
            manager.save(step, args=args)
        manager.wait_until_finished()


def save_msgpack(path, tree):
    """A file of ``flax.serialization``."""
    path.write_bytes(serialization.to_bytes(tree))
