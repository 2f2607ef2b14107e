r"""Names from the file system as text: bytes that are not UTF-8 are spelled out, and found again.

A file name is bytes. Python decodes those that are not UTF-8 to lone surrogates, which no JSON document, terminal or
other library takes. ``displayed`` spells such a byte as ``\xf6``, and ``on_disk`` finds the file by that spelling.
"""

from __future__ import annotations

import re
from pathlib import Path

from bncli.config.json_types import JSON

_SURROGATES = re.compile("[\ud800-\udfff]")
_SPELLED = re.compile(r"\\x([89a-f][0-9a-f])")
_FIRST_ESCAPE = 0xDC00  # Python decodes the byte b to the surrogate 0xDC00 + b


def displayed(name: str) -> str:
    r"""The name as valid Unicode: a byte that is not UTF-8 becomes ``\xf6``, any other lone surrogate ``\ud800``."""
    return _SURROGATES.sub(_spelled, name)


def on_disk(name: str) -> Path:
    """The path that ``displayed`` spelled as ``name``; the name itself if it exists, or if it spells no byte."""
    path = Path(name)
    spelled = Path(_SPELLED.sub(lambda match: chr(_FIRST_ESCAPE + int(match[1], 16)), name))
    return spelled if spelled != path and not _exists(path) and _exists(spelled) else path


def displayed_document(value: JSON) -> JSON:
    """A JSON document with all its texts, keys included, as ``displayed``."""
    if isinstance(value, str):
        return displayed(value)
    if isinstance(value, dict):
        return {displayed_document(key): displayed_document(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [displayed_document(item) for item in value]
    return value


def is_utf8(path: Path) -> bool:
    """True if the path is valid UTF-8, which libraries in C++ need."""
    return _SURROGATES.search(str(path)) is None


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    byte = code - _FIRST_ESCAPE
    return f"\\x{byte:02x}" if 0x80 <= byte <= 0xFF else f"\\u{code:04x}"


def _exists(path: Path) -> bool:
    """True if the path exists; False too for a name that no file can have."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False
