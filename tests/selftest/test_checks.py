"""A healthy jaxlib passes each check, and one that is wrong by the 0.8 % of jax#39103 in one place fails it."""

import jax
import numpy as np
import pytest

from bncli.process import flags
from bncli.selftest import checks
from bncli.selftest.checks import FULL, QUICK, Check, Outcome, relative_difference, run_check

FAULT = 0.992
ALL = (QUICK[0], *FULL)


def plant(monkeypatch, number):
    """Has each compiled program return its result number ``number`` with one element, the largest, 0.8 % too low."""
    real = flags.compile_step

    def compile_step(*arguments):
        program = real(*arguments)

        def run(*inputs):
            leaves, structure = jax.tree.flatten(program(*inputs))
            wrong = np.array(leaves[number])
            place = np.unravel_index(np.argmax(np.abs(wrong)), wrong.shape)
            wrong[place] *= FAULT
            return jax.tree.unflatten(structure, [*leaves[:number], wrong, *leaves[number + 1 :]])

        return run

    monkeypatch.setattr(flags, "compile_step", compile_step)


# Of the checks of a whole network, which take ten seconds, `bncli doctor` runs each as well.
@pytest.mark.parametrize(
    "check",
    [pytest.param(check, id=check.name, marks=[pytest.mark.slow] * check.name.startswith("cnn")) for check in ALL],
)
def test_the_installed_jaxlib_passes_and_a_wrong_one_does_not(check, monkeypatch):
    outcome = run_check(check)
    assert outcome.passed, outcome.finding
    assert outcome.difference < outcome.tolerance / 3  # with room for other machines
    assert outcome.error is None
    plant(monkeypatch, 0)
    outcome = run_check(check)
    assert not outcome.passed
    assert outcome.difference == pytest.approx(1 - FAULT, rel=0.01)


@pytest.mark.parametrize("number", range(7))
def test_each_result_of_the_layer_is_looked_at(number, monkeypatch):
    plant(monkeypatch, number)
    places = ["output", "mean", "variance", "gradient of the images", "gradient of the kernel"]
    outcome = run_check(QUICK[1])
    assert not outcome.passed
    assert outcome.place == "the " + [*places, "gradient of the scale", "gradient of the bias"][number]


def test_the_quick_form_is_part_of_the_full_one():
    assert {check.name for check in QUICK} <= {check.name for check in FULL}
    assert len({check.name for check in FULL}) == len(FULL)


def test_nan_does_not_pass_and_is_the_worst():
    pairs = {"fine": ([1.0], [1.0]), "nan": ([np.nan], [1.0]), "off": ([3.0], [1.0])}
    outcome = run_check(Check("planted", lambda: pairs, 1e-3))
    assert not outcome.passed
    assert outcome.place == "nan"


def test_a_program_that_cannot_be_compiled_has_failed():
    def broken():
        raise ValueError("Unknown opcode")

    outcome = run_check(Check("planted", broken, 1e-3))
    assert not outcome.passed
    assert outcome.finding == "ValueError: Unknown opcode"


def test_differences_are_relative_to_the_largest_number():
    assert relative_difference([[1.0, 99.0]], [[0.0, 100.0]]) == pytest.approx(0.01)
    assert relative_difference([0.0], [0.0]) == 0
    outcome = Outcome("a", 0.0078, 1e-5, "32,769 rows")
    assert outcome.finding == "off by 0.0078 in 32,769 rows, allowed 1e-05"


def test_other_devices_may_round_more(monkeypatch):
    check = Check("planted", lambda: {"a sum": ([1.0005], [1.0])}, 1e-4)
    assert not run_check(check).passed
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert run_check(check).passed
    assert not run_check(Check("planted", lambda: {"a sum": ([FAULT], [1.0])}, 1e-4)).passed


def test_the_layer_is_compiled_as_a_training_step_is(monkeypatch):
    given = []
    monkeypatch.setattr(flags, "compile_step", lambda step, arguments, options: given.append(options) or step)
    run_check(QUICK[1])
    assert given == [flags.step_compiler_options(precision="float32", image_shape=(32, 32, 3))]
    assert checks.IMAGES_SHAPE[1] * checks.IMAGES_SHAPE[2] >= flags._ONEDNN_MIN_PIXELS
