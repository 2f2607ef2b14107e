"""Dataclasses that are stored as JSON, read back with their types checked."""

from __future__ import annotations

import json
from typing import TypeVar

from pydantic import TypeAdapter

T = TypeVar("T")


def read_stored(kind: type[T], document: object) -> T:
    """The dataclass of a JSON document; nothing is converted but arrays to tuples, and unknown keys are ignored.

    Raises:
        ValueError: a value is missing or of another type.
    """
    adapter: TypeAdapter[T] = TypeAdapter(kind)
    return adapter.validate_json(json.dumps(document), strict=True)
