"""Laws of `scripts/contest.py`, with workers whose speeds are made up."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from bncli.config.recipes import named_recipe
from bncli.data import KNOWN
from bncli.models import MODELS
from bncli.training import assembly

SCRIPTS = Path(__file__).parents[1] / "scripts"
with pytest.MonkeyPatch.context() as patch:
    patch.syspath_prepend(SCRIPTS)
    import bench_train
    import contest
    import contest_report
    from contest_worker import CASES

BATCH = 8
# Turns take the seconds they say, not real ones; a step goes through one batch.
WORKER = f"""
import sys
sys.path.insert(0, {str(SCRIPTS)!r})
from contest_worker import Work, serve

class Fake:
    def __init__(self, spec):
        print("noise of a library")
        self.spec = spec
        if "start" in spec.get("fails", ()):
            raise ValueError("no such device\\nand more")
    def facts(self):
        return {{"parameters": self.spec.get("parameters", 100), "versions": {{self.spec["package"]: "1"}}}}
    def first(self, batch_size):
        if "first" in self.spec.get("fails", ()):
            raise RuntimeError("no compiler")
        if "dies" in self.spec:
            sys.exit(3)
        return Work(5 + batch_size / self.spec["rate"], batch_size)
    def turn(self, amount):
        return Work(amount * {BATCH} / self.spec["rate"], amount * {BATCH}, self.spec.get("left"))

serve(Fake)
"""


def hold(*contestants: tuple[str, dict], seconds: float = 1.0, rounds: int = 3) -> contest_report.Outcome:
    """The outcome of a contest among workers by name; a name that begins with "peer" is a peer's."""
    held = contest.Contest(rounds=rounds, seconds=seconds)
    with ExitStack() as stack:
        for name, spec in contestants:
            worker = contest.Worker(
                name, [sys.executable, "-c", WORKER], is_peer=name.startswith("peer"), environment={}
            )
            held.admit(stack.enter_context(worker), {"package": name, **spec})
        held.check_parameters()
        outcome = held.measure("case", BATCH)
    assert held.about()["versions"].keys() == {result.name for result in outcome.results}
    return outcome


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch):
    monkeypatch.setattr(contest, "SETTLE_SECONDS", 0.0)


def test_the_fastest_of_each_side_are_compared():
    outcome = hold(
        ("slow", {"rate": 100}), ("fast", {"rate": 300}), ("peer a", {"rate": 200}), ("peer b", {"rate": 50})
    )
    assert (outcome.bncli.name, outcome.peer.name) == ("fast", "peer a")
    assert outcome.ratios == pytest.approx([1.5] * 3)


def test_a_turn_is_as_long_as_asked_for():
    outcome = hold(("bncli", {"rate": 800}), ("peer", {"rate": 80}), seconds=3.0)
    assert [result.amount for result in outcome.results] == [300, 30]


def test_turns_fit_into_what_is_left():
    assert hold(("bncli", {"rate": 800, "left": 61}), ("peer", {"rate": 80})).bncli.amount == 20
    with pytest.raises(contest.ContestError, match="bncli: the epoch is too short"):
        hold(("bncli", {"rate": 800, "left": 2}), ("peer", {"rate": 80}))


def test_the_first_work_counts_as_compilation_less_its_steps():
    assert hold(("bncli", {"rate": 8}), ("peer", {"rate": 8})).bncli.compile_seconds == pytest.approx(5)


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ({"fails": ["start"]}, "ValueError: no such device"),
        ({"fails": ["first"]}, "RuntimeError: no compiler"),
        ({"dies": True}, "its process ended with 3"),
    ],
)
def test_a_peer_that_fails_is_left_out_and_bncli_is_not(trouble, reason):
    outcome = hold(("bncli", {"rate": 10}), ("peer a", {"rate": 10, **trouble}), ("peer b", {"rate": 5}))
    assert outcome.peer.name == "peer b"
    assert outcome.left_out["peer a"].startswith(reason)
    with pytest.raises(contest.ContestError, match=f"bncli: {reason}"):
        hold(("bncli", {"rate": 10, **trouble}), ("peer", {"rate": 10}))
    with pytest.raises(contest.ContestError, match=f"no peer is left: .*{reason}"):
        hold(("bncli", {"rate": 10}), ("peer", {"rate": 10, **trouble}))


def test_networks_of_other_sizes_are_not_compared():
    with pytest.raises(contest.ContestError, match="not the same network"):
        hold(("bncli", {"rate": 10}), ("peer", {"rate": 10, "parameters": 101}))


def test_every_second_round_goes_the_other_way_around():
    assert [contest.in_turn([1, 2, 3], number) for number in range(3)] == [[1, 2, 3], [3, 2, 1], [1, 2, 3]]


def test_the_document_keeps_the_contract():
    outcome = hold(("bncli", {"rate": 10}), ("peer", {"rate": 20}))
    document = contest_report.document([outcome], {"hardware": {}, "versions": {}})
    assert document["schema"] == "bncli.bench/1"
    (case,) = document["cases"]
    contract = {"name": "case", "bncli": 10, "peer": 20, "peer_variant": "peer", "ratio": 0.5, "rounds": 3}
    assert {key: case[key] for key in contract} == pytest.approx(contract)
    assert case["spread"] == pytest.approx([0.5, 0.5])


@pytest.mark.parametrize("name", CASES)
def test_each_case_names_a_model_and_a_data_set_that_bncli_knows(name):
    case = CASES[name]
    assert case.model in MODELS
    assert case.image_shape == KNOWN[case.like].image_shape


@pytest.mark.parametrize("name", CASES)
def test_a_case_is_trained_as_its_recipe_says(name):
    case = CASES[name]
    config = bench_train.run_config(case, "bfloat16")
    recipe = named_recipe(case.recipe, {})
    expected = {
        "model.name": case.model,
        "training.batch_size": case.batch_size,
        **(recipe.settings if recipe else {}),
        "training.epochs": 1,
        "training.precision": "bfloat16",
    }
    found = {key: getattr(getattr(config, section), field) for key in expected for section, field in [key.split(".")]}
    assert found == expected


def test_the_peer_is_told_what_the_recipe_fast_trains(tmp_path):
    case = replace(CASES["fastnet-32x32x3"], train_steps=1)
    config = bench_train.run_config(case, "float32")
    trainer = assembly.create_trainer(config, bench_train.synthetic_dataset(case), tmp_path)
    told = bench_train.recipe(trainer)
    assert not told.trains_whitening
    assert not told.trains_bn_scale
    assert told.alternating_flip
    assert told.bn_momentum == pytest.approx(1 - config.model.bn_momentum)
    assert told.triangle is not None
    assert (told.bias_lr_scale, told.ema_decay) == (config.finetune.bias_lr_scale, config.training.ema_decay)
    assert told.momentum == config.optimizer.momentum
    assert told.muon is not None
