"""More cases of a law: a few run by default, the rest on one Python alone."""

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
