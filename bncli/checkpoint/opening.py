"""One door for the checkpoints that a command names: bncli's own, an exported ONNX model, and another program's.

Another program's checkpoint says neither the model's code nor the form of its images. ``Unsaid`` holds these facts as
the user gives them.
"""

from __future__ import annotations

from pathlib import Path

from bncli.checkpoint.foreign_arrays import is_foreign
from bncli.checkpoint.foreign_model import open_foreign
from bncli.checkpoint.load import Checkpoint, load
from bncli.config.settings import ModelConfig
from bncli.config.unsaid import Unsaid
from bncli.config.validation import validated
from bncli.errors import UsageError
from bncli.process.files import open_regular

# The first byte of an ONNX file: the tag of its field `ir_version`.
_ONNX = b"\x08"


def is_unsaid(path: Path) -> bool:
    """True if ``path`` is another program's checkpoint, whose model and images the user describes.

    An ONNX file is none: it holds its network.
    """
    return is_foreign(path) and not (path.is_file() and _first_byte(path) == _ONNX)


def open_checkpoint(
    path: Path, *, step: str = "best", model: str | None = None, unsaid: Unsaid | None = None
) -> Checkpoint:
    """Open a checkpoint of any origin.

    Args:
        path: a directory of bncli, an exported ``model.onnx``, an Orbax directory, or a file of Flax, safetensors or
            Equinox.
        step: "best", "last", or the number of a step.
        model: the name of the model's code. bncli's own checkpoint needs it if the code has moved or changed.
        unsaid: the facts that another program's checkpoint does not say.

    Raises:
        BncliError: as ``load`` and ``open_foreign`` do.
        UsageError: facts are given for bncli's own checkpoint.
    """
    unsaid = unsaid or Unsaid()
    if not is_unsaid(path):
        refuse_unsaid(path, unsaid)
        return load(path, step=step, model=model)
    named = None if model is None else validated(ModelConfig, name=model, args=dict(unsaid.model_args))
    return open_foreign(path, step=step, model=named, image_shape=unsaid.image_shape, mean=unsaid.mean, std=unsaid.std)


def refuse_unsaid(path: Path, unsaid: Unsaid) -> None:
    """Raise UsageError if facts are given for bncli's own checkpoint, which holds them all."""
    if unsaid.options:
        raise UsageError(
            f"{', '.join(unsaid.options)}: {path} is bncli's own checkpoint, which holds this itself",
            remedy="Leave the option out.",
        )


def _first_byte(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            return file.read(1)
    except OSError:
        return b""  # the reader reports it
