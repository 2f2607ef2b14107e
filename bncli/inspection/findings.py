"""What the numbers of a BN layer mean: one table of rules.

To add a finding: write what it looks for into a family of ``rules``, and a row into ``RULES``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from bncli.inspection import remedies
from bncli.inspection.layers import DEAD_SCALE, DEAD_SIGMAS, BatchNormArrays, channels_where
from bncli.inspection.rules import network, precision, scales, statistics
from bncli.inspection.rules.rule import SEVERITIES, Channels, Entry, NetworkRule, Rule, Severity

__all__ = ["RULES", "SEVERITIES", "Entry", "Finding", "Severity", "find"]


@dataclass(frozen=True)
class Finding:
    """Something about one layer that the user should know.

    Attributes:
        code: stable name of the rule.
        severity: "error": the results are wrong; "warning": they are probably worse than they could be; "info".
        layer: path of the layer.
        channels: those concerned; empty where it is the whole layer.
        message: what is the case.
        remedy: what to do about it.
    """

    code: str
    severity: Severity
    layer: str
    channels: Channels
    message: str
    remedy: str


# Statistics that are no numbers: whatever else would be said of such a channel is said of them.
BROKEN = ("nonfinite", "negative-variance")
# Channels that pass nothing on or get nothing: how they would be scaled does not matter.
IDLE = (*BROKEN, "dead-channels", "dead-inputs")

RULES: tuple[Rule | NetworkRule, ...] = (
    Rule(
        code="nonfinite",
        severities=("error",),
        when="a NaN or infinity in mean, var, γ or β",
        why="one bad batch poisons a running average for good",
        concerned=statistics.nonfinite,
        message=statistics.nonfinite_message,
        remedy="{earlier}; train with {calmer}.",
    ),
    Rule(
        code="negative-variance",
        severities=("error",),
        when="var < 0",
        why="no average of variances is; below −ε the output is NaN",
        unless=("nonfinite",),
        concerned=statistics.negative_variance,
        message=statistics.negative_variance_message,
        remedy="{recalibrate}",
    ),
    Rule(
        code="never-updated",
        severities=("error",),
        when="mean = 0 and var = 1 in all channels",
        why="where Flax, Keras and PyTorch start; inference does not normalise at all",
        concerned=statistics.never_updated,
        message=statistics.never_updated_message,
        remedy="{recalibrate}. Next time {update}.",
    ),
    Rule(
        code="not-converged",
        severities=("warning",),
        when=f"momentum^updates > {100 * statistics.MAX_RESIDUAL:g} %",
        why="no framework corrects this bias of the start; 459 updates at momentum 0.99 are enough, 44 at 0.9",
        unless=("never-updated",),
        concerned=statistics.not_converged,
        message=statistics.not_converged_message,
        remedy="{recalibrate}. Next time train longer, or with {momentum}.",
    ),
    Rule(
        code="momentum-convention",
        severities=("warning",),
        when=f"momentum < {statistics.MIN_MOMENTUM:g}, as the weight of the old value",
        why="statistics of fewer than two batches; PyTorch's 0.1 is 0.9 in Flax and Keras (scvi-tools#2309)",
        unless=("never-updated",),
        concerned=statistics.foreign_momentum,
        message=statistics.foreign_momentum_message,
        remedy="{recalibrate}. Next time train with {momentum}.",
    ),
    Rule(
        code="replicas-disagree",
        severities=("warning",),
        when=f"means {statistics.REPLICA_DISTANCE:g} standard deviations apart, or standard deviations "
        f"{statistics.REPLICA_RATIO:g}-fold",
        why="more than the noise of their batches: the result depends on which replica is saved",
        unless=BROKEN,
        concerned=statistics.replicas_disagree,
        message=statistics.replicas_message,
        remedy="{recalibrate}. Next time {synchronise}.",
    ),
    Rule(
        code="dead-channels",
        severities=("info", "warning"),
        when=f"|γ| < {DEAD_SCALE:g}, or β + {DEAD_SIGMAS:g}·|γ| < 0 before a ReLU; a warning from "
        f"{100 * scales.DEAD_SHARE_WARNING:g} % of the channels on",
        why="they pass nothing on; weight decay makes up to 80 % of them at no loss (Mehta et al. 2019)",
        unless=(*BROKEN, "never-updated"),
        grade=scales.by_share,
        concerned=scales.dead,
        message=scales.dead_message,
        remedy="They can be pruned. If they are not intended, train with {calmer}.",
    ),
    Rule(
        code="dead-inputs",
        severities=("info", "warning"),
        when=f"mean² < ε and var < ε; a warning from {100 * scales.DEAD_SHARE_WARNING:g} % of the channels on",
        why="nothing arrives: a dead ReLU or filter before it, as in 22 % of a layer of EfficientNet-Lite0",
        unless=(*BROKEN, "dead-channels"),
        grade=scales.by_share,
        concerned=scales.dead_inputs,
        message=scales.dead_inputs_message,
        remedy="They can be pruned with what makes them. If all of the layer is so small, set a smaller {epsilon}.",
    ),
    Rule(
        code="epsilon-dominated",
        severities=("warning",),
        when="var < ε, and mean² ≥ ε",
        why="almost constant: ε alone sets the gain, up to 316-fold at 1e-5, and noise is amplified by it",
        unless=IDLE,
        concerned=scales.epsilon_dominated,
        message=scales.epsilon_dominated_message,
        remedy="{look_at_data}: is it constant? If it is not, recalibrate; a larger {epsilon} bounds the gain.",
    ),
    Rule(
        code="cancellation-risk",
        severities=("warning",),
        when=f"mean²·2⁻²⁴ > {100 * precision.MAX_VARIANCE_ERROR:g} % of var + ε: |mean| above 410 standard deviations",
        why="E[x²] − E[x]² in float32 loses the variance (Chan et al. 1983); Flax's use_fast_variance takes it so",
        unless=(*IDLE, "epsilon-dominated"),
        concerned=precision.cancellation,
        message=precision.cancellation_message,
        remedy="{recalibrate}. Next time centre the layer's input, or {one_pass}.",
    ),
    Rule(
        code="exploding-gain",
        severities=("info", "warning"),
        when=f"|γ|/√(var + ε) > {scales.LARGE_GAIN:g}, and > {scales.LARGE_GAIN_RATIO:g} times the layer's median; a "
        f"warning above {scales.MAX_GAIN:g}",
        why="what is 1 % of a unit elsewhere is a standard deviation there. Seldom active ReLU channels reach 100 in "
        "healthy networks; ε = 1e-5 allows 316·|γ|",
        unless=(*IDLE, "epsilon-dominated", "cancellation-risk"),
        grade=scales.by_gain,
        concerned=scales.exploding_gain,
        message=scales.exploding_gain_message,
        remedy="{look_at_data}: recalibrate if the variance is larger, else a larger {epsilon} bounds the gain. "
        "Against a |γ| that grows, train with {calmer}.",
    ),
    Rule(
        code="scale-outlier",
        severities=("info",),
        when=f"|γ| > {scales.MAX_SCALE_RATIO:g} times the layer's median",
        why="8 bits with one scale for the layer leave half of its channels 4 bits (Nagel et al. 2019); "
        "EfficientNet-Lite0 reaches 10",
        unless=(*IDLE, "exploding-gain"),
        concerned=scales.scale_outlier,
        message=scales.scale_outlier_message,
        remedy="Matters for 8-bit quantisation only: use a scale per channel, or equalise the channels before it.",
    ),
    Rule(
        code="float16-overflow",
        severities=("info", "warning"),
        when=f"mean, var, γ, β, gain or shift above {precision.FLOAT16_MAX:g}; a warning if kept in float16",
        why="it becomes infinity in float16, folded or not",
        unless=(*IDLE, "epsilon-dominated", "cancellation-risk", "exploding-gain"),
        grade=precision.graver_if_float16,
        concerned=precision.overflows_float16,
        message=precision.overflow_message,
        remedy="Use it in float32 or bfloat16; or scale the network's input down.",
    ),
    Rule(
        code="bfloat16-precision",
        severities=("info", "warning"),
        when="|mean| above 256 standard deviations; a warning if kept in bfloat16",
        why="neighbouring bfloat16 numbers are 2⁻⁸·|mean| apart there, more than a standard deviation",
        unless=(*IDLE, "epsilon-dominated", "cancellation-risk"),
        grade=precision.graver_if_bfloat16,
        concerned=precision.coarse_in_bfloat16,
        message=precision.coarse_message,
        remedy="{float32}, or centre its input.",
    ),
    NetworkRule(
        code="epsilon-differs",
        severities=("info", "warning"),
        when=f"not the ε of most layers; a warning if theirs would change a gain by {100 * network.EPSILON_EFFECT:g} %",
        why="ε is stored with few weights and gets lost in conversions: Flax and PyTorch take 1e-5, Keras 1e-3",
        grade=network.grade_epsilon,
        concerned=network.other_epsilon,
        message=network.other_epsilon_message,
        remedy="Nothing if it was trained so. If it was lost in a conversion, set {epsilon} as it was in training.",
    ),
    Rule(
        code="not-foldable",
        severities=("info",),
        when="the folder keeps the layer; looked at where the model is known",
        why="the reason is the folder's own, as `bncli fold` gives it",
        unless=BROKEN,
        concerned=network.kept_in_a_fold,
        message=network.kept_message,
        remedy="Nothing is wrong; it costs a multiply-add. It folds right behind a convolution or dense layer.",
    ),
)


def find(layers: Iterable[BatchNormArrays], *, file_format: str = "bncli", path: str = "CKPT") -> tuple[Finding, ...]:
    """The findings of all rules on all layers of one network, the gravest first.

    Args:
        layers: in the order of the forward pass.
        file_format: of the report; what the remedies are is another matter in another framework.
        path: of the checkpoint, for the remedies that are commands.
    """
    layers = tuple(layers)
    rules = tuple(rule.on(layers) for rule in RULES)
    with np.errstate(all="ignore"):
        found = [finding for layer in layers for finding in _on_layer(layer, rules, file_format=file_format, path=path)]
    return tuple(sorted(found, key=lambda finding: SEVERITIES.index(finding.severity)))


def _on_layer(layer: BatchNormArrays, rules: Iterable[Rule], *, file_format: str, path: str) -> Iterator[Finding]:
    """In the order of the rules, each without the channels that one named in its ``unless`` has already."""
    taken: dict[str, np.ndarray] = {}
    for rule in rules:
        flags = rule.concerned(layer)
        concerned = np.broadcast_to(flags, layer.channels) & ~_taken(rule, taken, layer)
        if not concerned.any():
            continue
        taken[rule.code] = concerned
        channels = channels_where(concerned)
        yield Finding(
            code=rule.code,
            severity=rule.grade(layer, channels) if rule.grade else rule.severities[0],
            layer=layer.name,
            channels=channels if isinstance(flags, np.ndarray) else (),
            message=rule.message(layer, channels),
            remedy=remedies.fill_in(rule.remedy, layer, file_format=file_format, path=path),
        )


def _taken(rule: Rule, taken: Mapping[str, np.ndarray], layer: BatchNormArrays) -> np.ndarray:
    """Bool [C]: the channels that have a finding already which says the same."""
    none = np.zeros(layer.channels, bool)
    return np.any([none, *(taken[code] for code in rule.unless if code in taken)], axis=0)
