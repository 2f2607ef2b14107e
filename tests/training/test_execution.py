"""Laws of the execution: every batch is given to the step once and in order, however many go in one dispatch."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.tiny import make_dataset, run_config, train

from bncli.checkpoint import sha256_tree
from bncli.data.batches import epoch_batches
from bncli.errors import BncliWarning
from bncli.process.compilations import compilations
from bncli.training import assembly, execution, run
from bncli.training.execution import StepExecution, grouped, scan_size


@given(num_steps=st.integers(1, 400), most=st.integers(1, 64))
def test_the_dispatches_of_an_epoch_are_equal_as_far_as_they_can_be(num_steps, most):
    size = scan_size(num_steps, most=most)
    pieces = [len(group) for group in grouped(iter(range(num_steps)), size)]
    assert sum(pieces) == num_steps
    assert set(pieces[:-1]) <= {size}
    assert max(pieces) <= most
    has_divisor = any(num_steps % number == 0 for number in range(most // 2 + 1, most + 1))
    assert len(set(pieces)) == 1 if has_divisor else len(pieces) == -(-num_steps // most)


@given(num_examples=st.integers(1, 400), size=st.integers(1, 9), data=st.data())
def test_groups_hold_every_batch_in_order_and_end_at_the_same_steps_from_any_start(num_examples, size, data):
    batches = list(epoch_batches(np.arange(num_examples, dtype=np.int32), 8))
    start = data.draw(st.integers(0, len(batches)))
    groups = list(grouped(iter(batches[start:]), size, start=start))
    assert [id(batch) for group in groups for batch in group] == [id(batch) for batch in batches[start:]]
    ends = start + np.cumsum([len(group) for group in groups])
    whole = [(end - len(group), len(group)) for end, group in zip(ends, groups, strict=True) if len(group) > 1]
    assert all(first % size == 0 for first, _ in whole)
    assert all(length == size for _, length in whole[:-1])


@pytest.mark.parametrize(
    ("images", "batch_size", "pieces"),
    [
        ((45_000, 32, 32, 3), 256, [22] * 8),  # CIFAR-10 with `--recipe fast`
        ((1_280, 224, 224, 3), 128, [5, 5]),  # photographs
        ((64, 512, 512, 3), 32, [2]),
        ((2, 4096, 4096, 3), 1, [2]),
        ((2, 8192, 8192, 3), 1, [1, 1]),
    ],
)
def test_a_dispatch_on_a_gpu_is_long_but_of_bounded_size(dataset, tmp_path, monkeypatch, images, batch_size, pieces):
    steps = assembly.create_trainer(run_config(), dataset, tmp_path, compile_ahead=False).execution
    split = SimpleNamespace(images=SimpleNamespace(shape=images))
    gpu = SimpleNamespace(devices=np.array([SimpleNamespace(platform="cuda")]))
    for name, value in {"_split": split, "_batch_size": batch_size, "mesh": gpu}.items():
        monkeypatch.setattr(steps, name, value)
    num_steps = -(-images[0] // batch_size)
    monkeypatch.setattr(StepExecution, "steps_per_epoch", num_steps)
    groups = grouped(iter(range(num_steps)), steps._steps_per_dispatch)
    assert [len(group) for group in groups] == pieces


def test_an_epoch_can_be_taken_up_at_any_step(dataset, tmp_path):
    steps = assembly.create_trainer(run_config(training={"batch_size": 8}), dataset, tmp_path).execution
    whole = [batch for group in steps.groups(1) for batch in group]
    assert len(whole) == steps.steps_per_epoch == 11
    for start in (0, 4, 10, 11):
        rest = [batch for group in steps.groups(1, start=start) for batch in group]
        assert [batch.indices.tolist() for batch in rest] == [batch.indices.tolist() for batch in whole[start:]]


def finished(trainer):
    run.start(trainer, overwrite=False)
    for _ in trainer.epochs():
        pass
    return trainer


OF_THE_NETWORK = {"jit(train_step)", "jit(first_state)"}
HYPERPARAMETERS = {
    "bn_momentum": {"model": {"bn_momentum": 0.8}},
    "dropout": {"model": {"dropout": 0.3}},
    "epochs": {"training": {"epochs": 2}},
    "learning_rate": {"optimizer": {"learning_rate": 0.01, "schedule": "step"}},
    "seed": {"training": {"seed": 7}},
    "weight_decay": {"optimizer": {"weight_decay": 0.0}},
}


def test_a_training_with_other_hyperparameters_compiles_nothing_and_differs(tmp_path):
    """With other data too, whose mean and std, and so the input of the network, are others."""
    base = {"model": {"dropout": 0.2}, "training": {"epochs": 1}, "optimizer": {}}

    def trained(name, dataset, **changes):
        config = run_config(**{section: base[section] | changes.get(section, {}) for section in base})
        return finished(assembly.create_trainer(config, dataset, tmp_path / name))

    first = trained("first", make_dataset())
    found = {sha256_tree(first.state.variables)}
    for name, changes in HYPERPARAMETERS.items():
        compiled = len(compilations().compiled)
        trainer = trained(name, make_dataset(seed=3 if name == "seed" else 0), **changes)
        assert trainer.execution.programs == first.execution.programs, name
        assert not OF_THE_NETWORK & set(compilations().compiled[compiled:]), name
        found.add(sha256_tree(trainer.state.variables))
    assert len(found) == 1 + len(HYPERPARAMETERS)


def test_like_trainings_share_their_programs_and_others_do_not(dataset, tmp_path):
    def trained(name, **optimizer):
        config = run_config(training={"epochs": 1}, optimizer=optimizer)
        return finished(assembly.create_trainer(config, dataset, tmp_path / name))

    first, again, other = trained("first"), trained("again"), trained("other", label_smoothing=0.1)
    assert again.execution.programs == first.execution.programs
    assert again.evaluation.eval_step.func is other.evaluation.eval_step.func is first.evaluation.eval_step.func
    assert not set(other.execution.programs.values()) & set(first.execution.programs.values())
    assert again.execution.compile_seconds < 0.1
    assert sha256_tree(again.state) == sha256_tree(first.state) != sha256_tree(other.state)


def test_an_evaluation_step_that_cannot_be_shared_is_made_once(dataset, tmp_path):
    evaluation = assembly.create_trainer(run_config(), dataset, tmp_path / "ckpt", compile_ahead=False).evaluation
    network = replace(evaluation.program.network, module=[])  # no hash, as a module with a list in it
    evaluation.program = evaluation.program._replace(network=network)
    assert evaluation.eval_step is evaluation.eval_step


def test_steps_in_one_dispatch_are_so_many_steps(dataset, tmp_path, monkeypatch):
    """What a GPU gets, several batches in one scan, comes to the numbers of one call a batch."""
    config = run_config(training={"epochs": 1, "batch_size": 32})  # the last two batches are padded
    one_by_one = train(config, dataset, tmp_path / "calls")
    monkeypatch.setattr(StepExecution, "_steps_per_dispatch", 3)  # all steps of the epoch
    scanned = train(config, dataset, tmp_path / "scan")
    for name in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "lr"):
        expected = getattr(one_by_one.history[0], name)
        assert getattr(scanned.history[0], name) == pytest.approx(expected, rel=1e-4), name


@pytest.mark.parametrize("batch_size", [28, 32])
def test_one_program_serves_padded_batches_and_full_ones(dataset, tmp_path, batch_size):
    trainer = assembly.create_trainer(run_config(training={"batch_size": batch_size}), dataset, tmp_path / "ckpt")
    run.start(trainer, overwrite=False)
    for _ in trainer.epochs():
        pass
    assert list(trainer.execution.programs) == [(False, 1)]


def test_a_step_compiled_ahead_is_the_step(dataset, tmp_path, monkeypatch):
    """Only shapes are known when it is compiled, of the state and of the batches."""
    monkeypatch.setattr(execution, "compiled_step", execution.compiled_step.__wrapped__)  # which shares nothing
    states, times = [], []
    for ahead in (False, True):
        config = run_config(training={"epochs": 1, "ema_decay": 0.9})
        trainer = assembly.create_trainer(config, dataset, tmp_path / str(ahead), compile_ahead=ahead)
        run.start(trainer, overwrite=False)
        if ahead:
            trainer.execution._ahead.result()
        for _ in trainer.epochs():
            pass
        states.append(sha256_tree(trainer.state))
        times.append(trainer.execution.compile_seconds)
    assert states[0] == states[1]
    assert times[1] < 0.1 * times[0]  # the run did not wait for it, and did not compile it again


def test_a_batch_of_more_than_all_examples_is_one_step_of_all_of_them(dataset, tmp_path):
    def steps_of(batch_size):
        return assembly.create_trainer(run_config(training={"batch_size": batch_size}), dataset, tmp_path).execution

    with pytest.warns(BncliWarning, match="--batch-size 100000 is more than the 84 training images"):
        huge = steps_of(100_000)
    assert huge.steps_per_epoch == 1
    ((batch,),) = huge.groups(3)
    ((expected,),) = steps_of(84).groups(3)
    np.testing.assert_array_equal(batch.indices, expected.indices)
    assert batch.mask is None
