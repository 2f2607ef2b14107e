"""More cases of a law: a few run by default, the rest on one Python alone."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import TypeVar

import pytest

Case = TypeVar("Case")


def broad(cases: Iterable[Case], by_default: Callable[[Case], bool]) -> list[object]:
    """Each of ``cases`` as a parameter, a tuple as several; where ``by_default`` is false, it is marked ``broad``."""
    return [
        pytest.param(
            *(case if isinstance(case, tuple) else (case,)),
            marks=() if by_default(case) else pytest.mark.broad,
        )
        for case in cases
    ]


def beyond_the_sample(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """The cases that a test marked ``sample(n)`` has beyond n of them, which lie evenly among all."""
    cases: defaultdict[str, list[pytest.Item]] = defaultdict(list)
    for item in items:
        if item.get_closest_marker("sample") and not item.get_closest_marker("broad"):
            cases[item.nodeid.partition("[")[0]].append(item)
    return [item for same in cases.values() for item in same if item not in _evenly(same)]


def _evenly(cases: list[pytest.Item]) -> list[pytest.Item]:
    marks = list(cases[0].iter_markers("sample"))
    wanted: int = marks[0].args[0]
    return [cases[number * len(cases) // wanted] for number in range(wanted)] if wanted < len(cases) else cases
