"""The fields in the remedies of the findings, as a user of each framework would carry them out.

The same step is a command for a checkpoint of bncli, and a setting or a call elsewhere.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from bncli.inspection.rules.statistics import MIN_MOMENTUM

# field -> its text for a checkpoint at {path}. {options} are those that open the checkpoint; {step} is the option for
# another save than the best, and they. {keep} is the momentum to use in Flax's convention, {take} 1 − {keep}.
Phrases = Mapping[str, str]

_ANYWHERE = {
    "calmer": "a lower learning rate or gradient clipping",
    "earlier": "Go back to an earlier checkpoint",
    "epsilon": "ε",
    "float32": "Keep this layer and its input in float32",
    "look_at_data": "Look at that channel's input on training data",
    "momentum": "a momentum that keeps {keep:g} of the old value",
    "one_pass": "compute the variance in two passes",
    "recalibrate": "Recompute the statistics on training data with frozen weights",
    "update": "run BN in train mode, and save the statistics that it updates",
    "synchronise": "synchronise BN across replicas",
}
_FLAX = _ANYWHERE | {
    "epsilon": "epsilon of nn.BatchNorm",
    "momentum": "nn.BatchNorm(momentum={keep:g})",
    "one_pass": "set nn.BatchNorm(use_fast_variance=False)",
    "recalibrate": "bncli.recalibrate(apply_fn, variables, batches)",
    "synchronise": "average them: jax.lax.pmean(batch_stats, axis_name), or nn.BatchNorm(axis_name=…)",
    "update": "apply with mutable=['batch_stats'] and keep the batch_stats it returns",
}
_BNCLI = _FLAX | {
    "calmer": "a lower --learning-rate, or --clip-norm 1",
    "earlier": "Look for an earlier, healthy save: bncli inspect-stats {path} --step N{options}",
    "epsilon": "--bn-epsilon",
    "float32": "Train with --precision float32",
    "look_at_data": "Measure its input: bncli inspect-stats {path} --data{step}",
    "momentum": "--bn-momentum {keep:g}",
    "recalibrate": "bncli recalibrate {path} OUT{step}",
}
_NNX = _FLAX | {
    "epsilon": "epsilon of nnx.BatchNorm",
    "momentum": "nnx.BatchNorm(momentum={keep:g})",
    "one_pass": "set nnx.BatchNorm(use_fast_variance=False)",
    "recalibrate": "module = bncli.recalibrate(module, batches)",
    "synchronise": "use nnx.BatchNorm(axis_name=…)",
    "update": "train after model.train(), and save nnx.state(model) with its BatchStat variables",
}
_EQUINOX = _ANYWHERE | {
    "epsilon": "eps of eqx.nn.BatchNorm",
    "momentum": "eqx.nn.BatchNorm(momentum={keep:g})",
    "recalibrate": "state = bncli.recalibrate(model, batches, state=state)",
    "synchronise": "give eqx.nn.BatchNorm the axis_name of all devices",
    "update": "keep the state that the model returns, and save it with the model",
}
_HAIKU = _ANYWHERE | {
    "epsilon": "eps of hk.BatchNorm",
    "momentum": "hk.BatchNorm(decay_rate={keep:g})",
    "recalibrate": "state = bncli.recalibrate(transformed, params, state, batches)",
    "synchronise": "use hk.BatchNorm(cross_replica_axis=…)",
    "update": "call with is_training=True, and keep and save the state that apply returns",
}
_KERAS_LIVE = {"recalibrate": "bncli.recalibrate(model, batches)"}
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


def _of_own_model(phrases: Phrases) -> Phrases:
    """The phrases for a checkpoint of bncli whose model's code sets its BN layers itself, in its framework's words."""
    return _BNCLI | {name: phrases[name] for name in ("epsilon", "momentum", "one_pass", "synchronise")}


# Another program's checkpoint whose model the user has named: a command opens it again with {step}, which then holds
# the options that describe it.
_DESCRIBED: Phrases = {
    "look_at_data": "Measure its input: bncli inspect-stats {path} --data DATA{step}",
    "recalibrate": "bncli recalibrate {path} OUT --data DATA{step}",
}
# format of a report -> its phrases; other formats use those that hold anywhere.
PHRASES: Mapping[str, Phrases] = {
    "bncli": _BNCLI,
    "bncli-equinox": _of_own_model(_EQUINOX),
    "bncli-haiku": _of_own_model(_HAIKU),
    "bncli-linen": _of_own_model(_FLAX),
    "bncli-nnx": _of_own_model(_NNX),
    "equinox": _EQUINOX,
    "flax-msgpack": _FLAX,
    "flax-variables": _FLAX,
    "haiku": _HAIKU,
    "keras": _KERAS,
    "keras-model": _KERAS | _KERAS_LIVE,
    "nnx": _NNX,
    "orbax": _FLAX,
    "pytorch": _PYTORCH,
}
# The momentum to advise if the layer's own is not one of the other convention.
GOOD_MOMENTUM = 0.9
# The save that the commands read without --step.
BEST = "best"


def _words(options: Sequence[str]) -> str:
    """The options as they follow others in a command."""
    return f" {shlex.join(options)}" if options else ""


def fill_in(
    remedy: str,
    *,
    momentum: float | None = None,
    file_format: str,
    path: str,
    step: str = BEST,
    options: Sequence[str] = (),
) -> str:
    """The remedy with its fields filled in for this format.

    Args:
        remedy: a text with fields.
        momentum: the layer's own, if known.
        file_format: a key of ``PHRASES``, or another program's format.
        path: the checkpoint's.
        step: the save that was inspected, as ``--step`` takes it; commands repeat it.
        options: the further words that open the checkpoint: ``--model`` and what describes another program's.
    """
    keep = 1 - momentum if momentum and momentum < MIN_MOMENTUM else GOOD_MOMENTUM
    more = _words(options)
    at_step = _words(() if step == BEST else ("--step", step))
    values = {"path": shlex.quote(path), "step": at_step + more, "options": more, "keep": keep, "take": 1 - keep}
    is_described = bool(options) and not file_format.startswith("bncli")
    phrases = {**PHRASES.get(file_format, _ANYWHERE), **(_DESCRIBED if is_described else {})}
    texts = {name: phrase.format(**values) for name, phrase in phrases.items()}
    # A momentum that forgets the initial value no faster than the layer's own is no advice.
    is_faster = momentum is None or keep < momentum
    return remedy.format(**texts, or_momentum=f", or with {texts['momentum']}" if is_faster else "")
