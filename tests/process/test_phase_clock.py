"""Laws of the account of time: every moment is counted once, and what is compiled is told from what is read."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.process.compilations import Compilations, compilations
from bncli.process.phase_clock import PHASES, PhaseClock

COMPILED, READ = "/jax/core/compile/backend_compile_duration", "/jax/compilation_cache/cache_hits"


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(PHASES), st.booleans(), st.floats(0, 0.004)), max_size=6))
def test_the_phases_add_up_to_the_whole(steps):
    """However phases follow one another and nest, and whatever is compiled within them."""
    started = time.perf_counter()
    clock = PhaseClock()
    for phase, nested, compiling in steps:
        with clock.phase(phase):
            time.sleep(0.001)
            compilations().on_duration(COMPILED, compiling)
            if nested:
                with clock.phase("saving"):
                    time.sleep(0.001)
    spent = clock.seconds()
    whole = time.perf_counter() - started
    assert set(spent) == set(PHASES)
    assert min(spent.values()) >= 0
    assert sum(spent.values()) == pytest.approx(whole, abs=2e-3)


def test_compiling_is_taken_out_of_the_phase_in_which_it_happens():
    clock = PhaseClock()
    with clock.phase("validation"):
        time.sleep(0.02)
        compilations().on_duration(COMPILED, 0.015)
    spent = clock.seconds()
    assert spent["compile"] == pytest.approx(0.015)
    assert 0.004 < spent["validation"] < 0.015


def test_a_nested_phase_pauses_the_one_around_it_and_an_error_ends_it():
    seen = []
    clock = PhaseClock(seen.append)
    with pytest.raises(KeyError), clock.phase("train"), clock.phase("saving"):
        raise KeyError
    assert seen == ["train", "saving", "train", "start"]


def test_programs_from_the_cache_are_counted_by_themselves():
    account = Compilations()
    account.on_duration(COMPILED, 1.0, fun_name="jit(step)")
    account.on_event(READ)
    account.on_duration(COMPILED, 0.1, fun_name="jit(init)")
    account.on_duration(COMPILED, 0.2, fun_name="jit(eval)")
    account.on_duration("/jax/core/compile/jaxpr_trace_duration", 5.0)
    assert (account.compiled, account.read) == (["jit(step)", "jit(eval)"], ["jit(init)"])
    assert sum(account.seconds.values()) == pytest.approx(1.3)
