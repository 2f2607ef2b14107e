"""Laws of fine-tuning: frozen bits stay, others move, and a run stopped at any step goes on to the same bytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from support.breadth import broad
from support.tiny import MLP, run_config, train

from bncli import checkpoint
from bncli.config.settings import OptimizerConfig
from bncli.errors import BncliWarning, TrainingInterruptedError, UsageError
from bncli.models.parts import array_path
from bncli.process.mesh import make_mesh
from bncli.training import assembly, run
from bncli.training.optimizer import UpdateNumbers, create_release_fn, create_tuned_optimizer
from bncli.training.tuning import Tuning, keep

TWO_LAYERS = MLP | {"args": {"features": [4, 4]}}
WARNS = pytest.mark.filterwarnings("ignore:.*frozen with the initial statistics:bncli.errors.BncliWarning")


def leaves(tree):
    """Path -> bytes."""
    return {array_path(keys): np.asarray(leaf).tobytes() for keys, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def moved(trainer, save):
    """(paths of parameters that differ from the start, paths of statistics that do)."""
    start = jax.device_get(trainer.state.variables)
    return tuple(
        {path for path, old in leaves(start[part]).items() if leaves(save[part])[path] != old}
        for part in ("params", "batch_stats")
    )


def after(dataset, out, *, epochs=2, **sections):
    """(parameters, statistics) that a run has moved."""
    training = {"epochs": epochs, "batch_size": 28} | sections.pop("training", {})
    config = run_config(model=TWO_LAYERS, training=training, **sections)
    trainer = assembly.create_trainer(config, dataset, out)
    train(config, dataset, out)
    return moved(trainer, checkpoint.load_variables(out, 3 * epochs))


DENSE = {f"Dense_{number}/{array}" for number in range(2) for array in ("kernel", "bias")}
AFFINE = {f"BatchNorm_{number}/{array}" for number in range(2) for array in ("scale", "bias")}
BACKBONE = DENSE | AFFINE
HEAD = {"Dense_2/kernel", "Dense_2/bias"}
STATISTICS = {f"BatchNorm_{number}/{array}" for number in range(2) for array in ("mean", "var")}


@WARNS
@pytest.mark.parametrize(
    ("finetune", "params", "statistics"),
    broad(
        [
            ({}, BACKBONE | HEAD, STATISTICS),
            ({"freeze": ("backbone",)}, HEAD, set()),
            ({"freeze": ("Dense_[01]",)}, AFFINE | HEAD, STATISTICS),
            ({"freeze": ("*_0",)}, (BACKBONE | HEAD) - {p for p in BACKBONE | HEAD if "_0/" in p}, STATISTICS),
            ({"freeze_bn": "statistics"}, BACKBONE | HEAD, set()),
            ({"freeze_bn": "all"}, (BACKBONE | HEAD) - AFFINE, set()),
            ({"freeze": ("backbone",), "unfreeze_at": 2}, BACKBONE | HEAD, STATISTICS),
            ({"freeze": ("backbone",), "unfreeze_at": 2, "freeze_bn": "all"}, (BACKBONE | HEAD) - AFFINE, set()),
            ({"layer_decay": 0.5, "head_lr_scale": 2.0}, BACKBONE | HEAD, STATISTICS),
        ],
        lambda case: len(case[0]) == 3,
    ),
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_frozen_arrays_keep_every_bit_and_all_others_move(dataset, tmp_path, finetune, params, statistics):
    if finetune.get("freeze") == ("*_0",):
        statistics = {path for path in statistics if "_0/" not in path}
    found = after(dataset, tmp_path / "ckpt", finetune=finetune, optimizer={"weight_decay": 0.1, "decay_all": True})
    assert found == (params, statistics)


@pytest.mark.broad
@WARNS
@pytest.mark.parametrize(
    "optimizer", [{"name": "adamw", "clip_norm": 0.1}, pytest.param({"clip_norm": 1.0}, marks=pytest.mark.slow)]
)
def test_unfreezing_moves_arrays_from_its_epoch_on_and_not_before(dataset, tmp_path, optimizer):
    config = run_config(
        model=TWO_LAYERS,
        optimizer=optimizer | {"schedule": "constant"},
        training={"epochs": 3, "batch_size": 28, "keep": 3},
        finetune={"freeze": ("backbone",), "unfreeze_at": 3},
    )
    start = assembly.create_trainer(config, dataset, tmp_path / "ckpt")
    train(config, dataset, tmp_path / "ckpt")
    for epoch, params, statistics in ((1, HEAD, set()), (2, HEAD, set()), (3, BACKBONE | HEAD, STATISTICS)):
        assert moved(start, checkpoint.load_variables(tmp_path / "ckpt", 3 * epoch)) == (params, statistics), epoch


@pytest.mark.broad
@WARNS
@pytest.mark.parametrize(
    "stop",
    [
        pytest.param(stop, marks=() if stop == (1, 2) else pytest.mark.broad)
        for stop in ((1, 2), (2, 1), (2, 2), (3, 1))
    ],
)
def test_a_run_that_is_stopped_around_the_unfreezing_resumes_to_the_same_bytes(dataset, tmp_path_factory, stop):
    config = run_config(
        model=TWO_LAYERS,
        optimizer={"name": "adamw"},
        training={"epochs": 3, "batch_size": 28, "ema_decay": 0.9},
        finetune={"freeze": ("backbone",), "unfreeze_at": 2, "layer_decay": 0.8},
    )
    whole = tmp_path_factory.getbasetemp() / "tuned-whole"
    if not whole.exists():
        train(config, dataset, whole)
    out = tmp_path_factory.mktemp("stopped") / "ckpt"
    with pytest.raises(TrainingInterruptedError):
        train(config, dataset, out, stop_after=stop)
    resumed = train(config, dataset, out, resume=True)
    expected = assembly.create_trainer(config, dataset, whole)
    run.resume(expected)
    assert resumed.sha256 == run.finish(expected, epochs_before=3).sha256


@WARNS
def test_averaged_weights_of_a_frozen_array_are_the_array_and_its_statistics_stay(dataset, tmp_path):
    found = after(
        dataset,
        tmp_path / "ckpt",
        training={"ema_decay": 0.9},
        finetune={"freeze": ("*_0",), "freeze_bn": "statistics"},
    )
    assert found == ({path for path in BACKBONE | HEAD if "_0/" not in path}, set())


@pytest.mark.broad
@WARNS
def test_precise_statistics_leave_frozen_layers_alone(dataset, tmp_path):
    _, statistics = after(
        dataset, tmp_path / "ckpt", epochs=1, training={"precise_bn": True}, finetune={"freeze": ("BatchNorm_0",)}
    )
    assert statistics == {path for path in STATISTICS if "_0/" not in path}


def test_frozen_bn_normalizes_by_its_running_statistics_in_training(dataset):
    config = run_config(model=TWO_LAYERS, finetune={"freeze_bn": "statistics"})
    network = assembly.step_settings(config, dataset, make_mesh()).network
    variables = network.init(jax.random.key(0), dataset.image_shape)
    stats = jax.tree.map(lambda leaf: leaf + 0.3, variables["batch_stats"])
    images = jax.random.normal(jax.random.key(1), (4, *dataset.image_shape))
    logits, kept = network.train_logits(
        {**variables, "batch_stats": stats}, images, mask=None, dropout_key=jax.random.key(2)
    )
    np.testing.assert_allclose(logits, network.logits({**variables, "batch_stats": stats}, images), rtol=1e-5)
    assert leaves(kept) == leaves(stats)


def test_each_bias_has_its_factor_beside_that_of_its_layer(dataset):
    config = run_config(model=TWO_LAYERS, finetune={"bias_lr_scale": 8.0, "head_lr_scale": 3.0, "layer_decay": 0.5})
    factors = dict(assembly.step_settings(config, dataset, make_mesh()).tuning.factors)
    assert factors == {
        "Dense_2/kernel": 3,
        "Dense_2/bias": 24,
        "Dense_1/kernel": 0.5,
        "Dense_1/bias": 4,
        "BatchNorm_1/scale": 0.5,
        "BatchNorm_1/bias": 4,
        "Dense_0/kernel": 0.25,
        "Dense_0/bias": 2,
        "BatchNorm_0/scale": 0.25,
        "BatchNorm_0/bias": 2,
    }


# The optimizer.

PARAMS = {
    "old": {"kernel": jnp.full((2, 2), 2.0)},
    "next": {"kernel": jnp.full((2, 2), 2.0)},
    "new": jnp.full((2,), 2.0),
}
TUNING = Tuning(
    frozen=frozenset({"old/kernel"}),
    later=frozenset({"next/kernel"}),
    frozen_norms=frozenset(),
    later_norms=frozenset(),
    release_epoch=1,
    factors=(("new", 3.0),),
)


def updates(*, released, grads, steps=1, state=None, **changes):
    """(the last updates, the state) after some steps at a rate of 0.5."""
    config = OptimizerConfig(warmup_epochs=0, **changes)
    release = create_release_fn(config, steps_per_epoch=10, epochs=4, start=10)

    def optimizer_of(step):
        numbers = UpdateNumbers(0.5, release(np.array([step]))[0], config.weight_decay)
        return create_tuned_optimizer(config, numbers, TUNING, released=released)

    state = optimizer_of(0).init(PARAMS) if state is None else state
    first = int(state[-1].count)
    for step in range(first, first + steps):
        optimizer = optimizer_of(step)
        found, state = optimizer.update(grads, state, PARAMS)
    return found, state


ONES = jax.tree.map(jnp.ones_like, PARAMS)


@pytest.mark.parametrize("name", ["sgd", "adamw", "muon"])
def test_what_is_frozen_gets_no_update_not_even_of_weight_decay(name):
    found, state = updates(released=False, grads=ONES, name=name, weight_decay=0.5, decay_all=True)
    assert not np.any(found["old"]["kernel"])
    assert not np.any(found["next"]["kernel"])
    assert np.all(found["new"] < 0)
    found, _ = updates(released=True, grads=ONES, steps=11, state=state, name=name, weight_decay=0.5, decay_all=True)
    assert not np.any(found["old"]["kernel"])
    assert np.all(found["next"]["kernel"] < 0)


def test_a_factor_multiplies_the_update():
    found, _ = updates(released=True, grads=ONES, steps=30, momentum=0.0, weight_decay=0.0)
    np.testing.assert_allclose(found["new"], -1.5, rtol=1e-6)
    np.testing.assert_allclose(found["next"]["kernel"], -0.5, rtol=1e-6)


@pytest.mark.parametrize("size", [1.0, 1e6])
def test_clipping_sees_the_gradients_of_trained_arrays_alone(size):
    grads = {**ONES, "old": {"kernel": jnp.full((2, 2), size)}, "next": {"kernel": jnp.full((2, 2), size)}}
    found, _ = updates(released=False, grads=grads, momentum=0.0, weight_decay=0.0, clip_norm=1.0)
    np.testing.assert_allclose(found["new"], -1.5 / np.sqrt(2), rtol=1e-6)


def test_the_moments_of_a_released_array_begin_at_its_release():
    """Adam's first step of an array is its whole learning rate, however long it has waited."""
    _, state = updates(released=False, grads=ONES, steps=10, name="adamw", weight_decay=0.0)
    found, _ = updates(released=True, grads=ONES, steps=20, state=state, name="adamw", weight_decay=0.0)
    np.testing.assert_allclose(found["next"]["kernel"], -0.5, rtol=1e-4)
    first, _ = updates(released=True, grads=ONES, steps=1, state=state, name="adamw", weight_decay=0.0)
    np.testing.assert_allclose(first["next"]["kernel"], -0.5, rtol=1e-4)


def test_released_arrays_warm_up_on_their_own():
    config = OptimizerConfig(warmup_epochs=1)
    release = create_release_fn(config, steps_per_epoch=10, epochs=9, start=40)
    np.testing.assert_allclose(release(np.array([40, 44, 49, 80])), [0.1, 0.5, 1.0, 1.0])
    short = create_release_fn(config, steps_per_epoch=10, epochs=5, start=40)
    assert short(np.array([41])) == 1  # a quarter of the rest is two steps


def test_kept_arrays_keep_the_sign_of_zero():
    old = {"a": jnp.array([-0.0, 1.0]), "b": jnp.zeros(1)}
    kept = keep({"a"}, jax.tree.map(lambda leaf: leaf + 0.0, old), old)
    assert leaves(kept) == leaves(old)


# Refusals and doubts.


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ({"freeze": ("Dense_7",)}, "--freeze Dense_7: no array of the network has such a path"),
        ({"freeze": ("*",)}, "leaves nothing to train"),
        ({"freeze": ("Dense_0", "nope*")}, "--freeze nope"),
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(dataset, tmp_path, finetune, message):
    with pytest.raises(UsageError, match=message):
        assembly.create_trainer(run_config(model=TWO_LAYERS, finetune=finetune), dataset, tmp_path / "ckpt")


@pytest.mark.parametrize(
    ("finetune", "message"),
    [
        ({"freeze": ("Dense_0",), "unfreeze_at": 9}, "--unfreeze-at 9: the run ends after 2 epochs"),
        ({"freeze_bn": "statistics"}, "BatchNorm_0 and 1 more: frozen with the initial statistics"),
    ],
)
def test_settings_that_have_no_use_are_doubted(dataset, tmp_path, finetune, message):
    with pytest.warns(BncliWarning, match=message):
        begin(run_config(model=TWO_LAYERS, finetune=finetune), dataset, tmp_path / "ckpt")


def begin(config, dataset, out):
    run.start(assembly.create_trainer(config, dataset, out), overwrite=False)
