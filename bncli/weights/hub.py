"""Weights of the Hugging Face Hub, as ``hf://ORG/NAME``: the only importer of huggingface_hub."""

from __future__ import annotations

import re
from pathlib import Path

from bncli.errors import CheckpointError, UsageError

SCHEME = "hf://"
NEEDS_EXTRA = "pip install 'bncli[hub]'"

# The file of the weights, in this order, and what is said of them.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin")
_CONFIG = "config.json"
_NAME = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def is_hub(source: str) -> bool:
    """True if ``source`` names weights of the Hub."""
    return source.startswith(SCHEME)


def fetch(source: str) -> Path:
    """The file of the weights in the user's cache of the Hub, downloaded if it is not there.

    Args:
        source: ``hf://ORG/NAME`` or ``hf://ORG/NAME@REVISION``.

    Raises:
        UsageError: the name is no name of a repository.
        CheckpointError: huggingface_hub is not installed, there is no such repository, or the Hub cannot be reached.
    """
    match = _NAME.fullmatch(source.removeprefix(SCHEME))
    if match is None:
        raise UsageError(
            f"{source[:200]} names no repository", remedy="Write it as hf://timm/resnet50.a1_in1k, or with @REVISION."
        )
    try:
        import huggingface_hub
    except ImportError:
        raise CheckpointError(f"{source} needs huggingface_hub, which is not installed", remedy=NEEDS_EXTRA) from None
    repository, revision = match["repository"], match["revision"]
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for name in _WEIGHTS:
        try:
            path = Path(huggingface_hub.hf_hub_download(repository, name, revision=revision))
            _fetch_config(repository, revision)
        except LocalEntryNotFoundError as error:
            raise _unreachable(source, repository, revision) from error
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as error:
            raise CheckpointError(
                f"{source}: {_reason(error)}", remedy="Check the name; private repositories need `hf auth login`."
            ) from error
        except (OSError, ValueError) as error:
            raise _unreachable(source, repository, revision) from error
        return path
    raise CheckpointError(f"{source} has neither {' nor '.join(_WEIGHTS)}", remedy="Name another repository.")


def _fetch_config(repository: str, revision: str | None) -> None:
    """Fetch timm's description of the weights, which then lies beside them."""
    import huggingface_hub
    from huggingface_hub.errors import EntryNotFoundError

    try:
        huggingface_hub.hf_hub_download(repository, _CONFIG, revision=revision)
    except EntryNotFoundError:
        return  # it has none, or only the weights are in the cache


def _unreachable(source: str, repository: str, revision: str | None) -> CheckpointError:
    place = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}"
    folder = repository.rpartition("/")[2]
    return CheckpointError(
        f"{source} is not in the cache, and the Hugging Face Hub cannot be reached",
        remedy=f"On a machine with access, download {place}/{_WEIGHTS[0]} and {place}/{_CONFIG} into a folder, say "
        f"{folder}; copy it here, and name it: --weights {folder}",
    )


def _reason(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
