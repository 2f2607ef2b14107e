"""No parameter of a primitive is overlooked: each is read, argued not to matter, or keeps the BN."""

from __future__ import annotations

from pathlib import Path

import jax
import pytest

from bncli.folding.primitives import RECORDS
from folding.primitives.parameters import NOT_NEEDED, UNREAD, read, table

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "primitives.md"


@pytest.fixture(scope="module")
def rows():
    return read()


def test_every_parameter_is_read_or_has_a_reason(rows):
    for row in rows.values():
        assert bool(row.readers) != bool(row.reason), row
        assert row.reason != UNREAD, row


def test_every_function_reads_every_parameter_but_those_argued(rows):
    """A rule that forgets the `dimensions` of a reshape, though the value reads them, makes this fail."""
    unread = {key: row.unread for key, row in rows.items() if row.unread}
    assert unread == {key: functions for key, (functions, _) in NOT_NEEDED.items()}


def test_every_parameter_that_a_record_declares_is_met(rows):
    """But for names that other versions of JAX give to the same operations."""
    for record in RECORDS:
        met = [{parameter for name, parameter in rows if name == other} for other in record.names]
        assert record.reads <= set().union(*met), record.names


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: record.names[0])
def test_a_parameter_that_nothing_reads_makes_every_record_stuck(record):
    params = dict.fromkeys(record.reads | record.ignores) | dict(record.defaults)
    assert record.unknown_parameter(params) is None
    assert record.unknown_parameter({**params, "invented": None}) == "invented"


def test_the_page_is_the_table():
    """Parameters differ between versions of JAX: the page says which one it was made with."""
    page = PAGE.read_text(encoding="utf-8")
    if f"JAX {jax.__version__}," not in page:
        pytest.skip("the page was made with another version of JAX")
    assert page.endswith(table())
