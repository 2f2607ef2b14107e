"""A run's parts, made of its settings and data: what they are, what is refused, and what is recorded."""

import pytest
from support.tiny import CNN, run_config

from bncli import checkpoint
from bncli.errors import ModelError
from bncli.process import hardware
from bncli.process.mesh import make_mesh
from bncli.training import assembly


def test_the_record_holds_what_was_asked_for_and_what_data_and_machine_added(trained, dataset):
    config = checkpoint.read_config(trained.out)
    assert config == trained.config
    assert config.run == run_config(model=CNN, data={"augment": False}, training={"epochs": 4, "batch_size": 28})
    assert config.preprocessing.image_shape == (8, 8, 1)
    assert (config.preprocessing.mean, config.preprocessing.std) == (dataset.mean, dataset.std)
    assert config.dataset.sha256 == dataset.sha256
    assert config.dataset.class_names == dataset.class_names
    assert (config.dataset.num_train, config.dataset.num_val, config.dataset.num_test) == (84, 30, 24)
    assert config.versions == hardware.versions()


def test_augmentation_can_be_left_out(dataset):
    configs = [run_config(data={"augment": augment}) for augment in (True, False)]
    with_, without = (assembly.step_settings(config, dataset, make_mesh()) for config in configs)
    assert with_.augmentation == dataset.augmentation
    assert not dataset.augmentation.is_none
    assert without.augmentation.is_none


NETS = """
import flax.linen as nn

class Fixed(nn.Module):
    outputs: int = 10

    @nn.compact
    def __call__(self, x, train):
        return nn.Dense(self.outputs)(x.reshape(len(x), -1))

class Pair(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return x, nn.Dense(3)(x)
"""


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ({"name": "nets.py:Fixed"}, r"nets\.py:Fixed makes 10 logits per image, and .* has 3 classes"),
        ({"name": "nets.py:Fixed", "args": {"outputs": 2}}, r"makes 2 logits per image"),
        ({"name": "nets.py:Pair"}, r"nets\.py:Pair cannot be applied in eval mode"),
    ],
)
def test_a_network_that_does_not_make_one_logit_per_class_is_refused(dataset, tmp_path, model, message):
    (tmp_path / "nets.py").write_text(NETS)
    config = run_config(model={"args": {}} | model | {"name": f"{tmp_path}/{model['name']}"})
    with pytest.raises(ModelError, match=message):
        assembly.create_trainer(config, dataset, tmp_path / "ckpt")
