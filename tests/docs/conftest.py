"""The modules that build the documentation, and one directory in which its commands run."""

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli.conftest import invoke

ROOT = Path(__file__).parents[2]
with pytest.MonkeyPatch.context() as patch:
    for folder in ("scripts", "docs/_ext"):
        patch.syspath_prepend(ROOT / folder)
    import check_site
    import claim_pages
    import doc_sessions
    import languages
    import reference_text

__all__ = ["ROOT", "Place", "check_site", "claim_pages", "doc_sessions", "languages", "reference_text"]

# Longer trainings end after two epochs: the call is the same, and the figures below it are not compared.
MOST_EPOCHS = 8
EPOCHS = 2


class Place:
    """A directory in which each command runs once."""

    def __init__(self) -> None:
        self.results = {}

    def run(self, command: str):
        """The finished command."""
        if command not in self.results:
            self.results[command] = invoke(*shortened(command))
        return self.results[command]


def shortened(command: str) -> Iterator[str]:
    """The words after `bncli`, with fewer epochs."""
    previous = ""
    for word in shlex.split(command)[1:]:
        is_long = previous in ("--epochs", "--schedule-epochs") and int(word) > MOST_EPOCHS
        yield str(EPOCHS) if is_long else word
        previous = word


@pytest.fixture(scope="session")
def place(tmp_path_factory):
    """The directory that all pages share, with the checkpoints of the README's picture."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        place = Place()
        for command in doc_sessions.PICTURE:
            assert place.run(command).exit_code == 0, place.run(command).output
        yield place
