"""The built-in networks, and the user's own: from a name in the settings to a ``Network``."""

from bncli.models.custom import model_file_sha256, untrusted
from bncli.models.given import with_given_numbers
from bncli.models.registry import (
    MODELS,
    build_network,
    build_own_network,
    relu_follows_every_bn,
    whitens_patches,
    with_local_statistics,
)

__all__ = [
    "MODELS",
    "build_network",
    "build_own_network",
    "model_file_sha256",
    "relu_follows_every_bn",
    "untrusted",
    "whitens_patches",
    "with_given_numbers",
    "with_local_statistics",
]
