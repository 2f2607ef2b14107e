"""A program is built once for each key, and settings of JAX are part of the key."""

import jax
import pytest

from bncli.process.shared_programs import MAX_KEPT, shared


@pytest.fixture
def built():
    return []


@pytest.fixture
def build(built):
    return shared(lambda key: (built.append(key), object())[1])


def test_equal_keys_share_a_program(build, built):
    assert build((1, "a")) is build((1, "a"))
    assert build((2, "a")) is not build((1, "a"))
    assert built == [(1, "a"), (2, "a")]


def test_a_key_that_cannot_be_hashed_gets_a_program_of_its_own(build, built):
    assert build([1]) is not build([1])
    assert built == [[1], [1]]


def test_other_settings_of_jax_need_another_program(build):
    usual = build(1)
    with jax.default_matmul_precision("highest"):
        assert build(1) is not usual
    assert build(1) is usual


def test_the_oldest_programs_are_dropped(build, built):
    for key in range(MAX_KEPT + 1):
        build(key)
    build(MAX_KEPT)
    build(0)
    assert built == [*range(MAX_KEPT + 1), 0]


def test_a_build_that_fails_is_tried_again(built):
    @shared
    def fails(key):
        built.append(key)
        raise ValueError(key)

    for _ in range(2):
        with pytest.raises(ValueError, match="7"):
            fails(7)
    assert built == [7, 7]
