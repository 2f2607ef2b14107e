"""What a user of each framework would do: the fields in the remedies of the findings.

The same step is a command for a checkpoint of bncli, and a setting or a call elsewhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping

from bncli.inspection.layers import BatchNormArrays
from bncli.inspection.rules.statistics import MIN_MOMENTUM

# field -> what it says for a checkpoint at {path}; {keep} is the momentum to use in Flax's convention, {take} 1 − it.
Phrases = Mapping[str, str]

_ANYWHERE = {
    "calmer": "a lower learning rate or clipped gradients",
    "earlier": "Go back to an earlier checkpoint",
    "epsilon": "ε",
    "float32": "Keep this layer and its input in float32",
    "look_at_data": "Look at that channel's input on training data",
    "momentum": "a momentum that keeps {keep:g} of the old value",
    "one_pass": "compute the variance in two passes",
    "recalibrate": "Compute the statistics anew on training data, with fixed weights",
    "update": "take care that BN is in train mode, and that what it updates is what is saved",
    "synchronise": "synchronise BN across replicas",
}
_FLAX = _ANYWHERE | {
    "epsilon": "epsilon of nn.BatchNorm",
    "momentum": "nn.BatchNorm(momentum={keep:g})",
    "one_pass": "set nn.BatchNorm(use_fast_variance=False)",
    "recalibrate": "bncli.recalibrate(apply_fn, variables, batches)",
    "synchronise": "average them: jax.lax.pmean(batch_stats, axis_name), or nn.BatchNorm(axis_name=…)",
    "update": "apply with mutable=['batch_stats'] and keep what comes back",
}
_BNCLI = _FLAX | {
    "calmer": "a lower --learning-rate, or --clip-norm 1",
    "earlier": "bncli inspect-stats {path} --step N shows an earlier save",
    "epsilon": "--bn-epsilon",
    "float32": "Train with --precision float32",
    "look_at_data": "bncli inspect-stats {path} --data measures its input",
    "momentum": "--bn-momentum {keep:g}",
    "recalibrate": "bncli recalibrate {path} OUT",
}
_KERAS = _ANYWHERE | {
    "epsilon": "epsilon of BatchNormalization",
    "momentum": "BatchNormalization(momentum={keep:g})",
    "synchronise": "use BatchNormalization(synchronized=True)",
    "update": "train with trainable=True and training=True, and save after training",
}
_PYTORCH = _ANYWHERE | {
    "epsilon": "eps of BatchNorm2d",
    "momentum": "BatchNorm2d(momentum={take:g}) (PyTorch's is the weight of the new value)",
    "recalibrate": "torch.optim.swa_utils.update_bn(loader, model)",
    "synchronise": "use SyncBatchNorm",
    "update": "train in model.train() mode, and save model.state_dict() after training",
}

# format of a report -> its phrases; any other takes those that hold anywhere.
PHRASES: Mapping[str, Phrases] = {
    "bncli": _BNCLI,
    "flax-msgpack": _FLAX,
    "flax-variables": _FLAX,
    "keras": _KERAS,
    "orbax": _FLAX,
    "pytorch": _PYTORCH,
}
# What to advise where the layer's own momentum is not that of the other convention.
GOOD_MOMENTUM = 0.9


def fill_in(remedy: str, layer: BatchNormArrays, *, file_format: str, path: str) -> str:
    """The remedy with its fields as the format has them."""
    keep = 1 - layer.momentum if layer.momentum and layer.momentum < MIN_MOMENTUM else GOOD_MOMENTUM
    values = {"path": shlex.quote(path), "keep": keep, "take": 1 - keep}
    phrases = PHRASES.get(file_format, _ANYWHERE)
    return remedy.format(**{name: phrase.format(**values) for name, phrase in phrases.items()})
