"""The meaning of an option's text, if it is more than one word or number."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import get_args

from bncli.config.choices import FindingCode
from bncli.config.json_types import JSON, Document
from bncli.errors import UsageError
from bncli.process.files import real_path


def model_arguments(texts: Iterable[str]) -> Document:
    """The keyword arguments in ``--model-arg key=value …``."""
    return dict(_key_value(text) for text in texts)


def _key_value(text: str) -> tuple[str, JSON]:
    """``features=[8,16]`` -> ("features", [8, 16]); a value that is no JSON is a string."""
    key, equals, value = text.partition("=")
    if not equals or not key.isidentifier():
        raise UsageError(f"--model-arg {text!r} is not key=value", remedy="For example --model-arg width=64.")
    try:
        return key, json.loads(value)
    except json.JSONDecodeError:
        return key, value


def absolute_model_name(name: str) -> str:
    """``file.py:Class`` with the file's absolute path, so that the checkpoint can be read from any directory."""
    path, _, class_name = name.rpartition(":")
    return f"{real_path(Path(path))}:{class_name}" if path.endswith(".py") else name


def absolute_source(source: str) -> str:
    """The absolute form of a path, for a checkpoint that is read elsewhere; a known name stays as it is."""
    return str(_expanded(source).resolve()) if is_own_data(source) else source


def absolute_weights(source: str) -> str:
    """The absolute form of a path of weights; ``hf://ORG/NAME`` stays as it is."""
    return source if "://" in source else str(_expanded(source).resolve())


def is_own_data(source: str) -> bool:
    """True if ``--data`` is a folder or file, and not the name of a known data set."""
    if not _expanded(source).exists():
        return False
    from bncli.data.known import KNOWN

    return source not in KNOWN


def _expanded(source: str) -> Path:
    return Path(os.path.expanduser(source))  # noqa: PTH111 - Path's own fails on "~nobody"


def image_shape(text: str) -> tuple[int, int, int]:
    """(H, W, C) of ``--input-shape 32,32,3``."""
    words = [word.strip() for word in text.split(",")]
    if len(words) != 3 or not all(word.isascii() and word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(
            f"--input-shape {text!r} is not height, width and channels, three numbers above 0",
            remedy="For example --input-shape 32,32,3. For other inputs there is bncli.fold in Python.",
        )
    height, width, channels = map(int, words)
    return height, width, channels


def numbers(text: str, option: str) -> tuple[float, ...]:
    """The numbers in an option like ``--mean 0.5,0.5,0.5``."""
    try:
        return tuple(float(word) for word in text.split(","))
    except ValueError:
        raise UsageError(
            f"{option} {text!r} is not numbers separated by commas", remedy=f"For example {option} 0.5,0.5,0.5."
        ) from None


def finding_codes(texts: Iterable[str]) -> frozenset[str]:
    """The codes in ``--ignore CODE …``.

    Raises:
        UsageError: no finding has such a code; lists the codes.
    """
    codes, known = frozenset(texts), get_args(FindingCode)
    for code in sorted(codes - set(known)):
        raise UsageError(f"--ignore: no finding has the code {code!r}", remedy=f"There are {', '.join(known)}.")
    return codes


def batch_sizes(text: str) -> tuple[int, ...]:
    """The numbers in ``--batch-sizes 1,32,256``, each once."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isascii() and word.isdecimal() and int(word) > 0 for word in words):
        raise UsageError(
            f"--batch-sizes {text!r} is not numbers above 0 separated by commas",
            remedy="For example --batch-sizes 1,32,256.",
        )
    return tuple(dict.fromkeys(map(int, words)))
