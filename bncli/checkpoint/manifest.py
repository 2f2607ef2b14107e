"""Lists of files with their SHA-256, in the format of ``sha256sum``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from bncli.process.files import file_sha256, require_contained

# Of a folded checkpoint: the files beside its save.
FILES_MANIFEST = "files.sha256"


def manifest_text(digests: Mapping[str, str]) -> str:
    """One line per file, with the path relative to the directory."""
    return "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))


def parse_manifest(content: bytes) -> dict[str, str]:
    """File name -> SHA-256; a damaged line becomes a file that no directory has."""
    lines = content.decode(errors="replace").splitlines()
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def digests_below(directory: Path) -> dict[str, str]:
    """File name -> SHA-256, for all files below ``directory``.

    Raises:
        OSError: a file cannot be read, is no regular file, or is a link that leads out of the directory.
    """
    require_contained(directory)
    files = (path.relative_to(directory) for path in directory.rglob("*") if path.is_file())
    return digests_of(directory, (path.as_posix() for path in files))


def digests_of(directory: Path, names: Iterable[str]) -> dict[str, str]:
    """File name -> SHA-256, for those of ``names`` that are in the directory."""
    return {name: file_sha256(directory / name) for name in names if (directory / name).is_file()}


def first_difference(expected: Mapping[str, str], actual: Mapping[str, str], names: Iterable[str]) -> str | None:
    """A complaint about the first of ``names`` that differs, such as "NAME is missing"; None if none differs."""
    for name in sorted(names):
        if expected.get(name) != actual.get(name):
            if name not in actual:
                return f"{name} is missing"
            return f"{name} is damaged" if name in expected else f"{name} is not of this save"
    return None
