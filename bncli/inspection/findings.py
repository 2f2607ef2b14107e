"""The findings about BN layers: one row of a table each.

To add a finding: write its functions into a family of ``rules``, a row into ``RULES`` (or ``RULES_ON_DATA``), and its
code into ``config.choices.FindingCode``, which ``--ignore`` accepts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from bncli.inspection import remedies
from bncli.inspection.layers import DEAD_SCALE, DEAD_SIGMAS, BatchNormArrays, channels_where
from bncli.inspection.live_report import LiveReport
from bncli.inspection.rules import network, on_data, precision, scales, statistics
from bncli.inspection.rules.rule import SEVERITIES, Channels, DataRule, Entry, NetworkRule, Rule, Severity

__all__ = ["RULES", "RULES_ON_DATA", "SEVERITIES", "Entry", "Finding", "Severity", "catalogue", "find", "find_on_data"]


@dataclass(frozen=True)
class Finding:
    """Something about one layer that the user should know.

    Attributes:
        code: stable name of the rule.
        severity: "error": the results are wrong; "warning": they are probably worse than they could be; "info".
        layer: path of the layer.
        channels: the affected ones; empty if the finding is about the whole layer.
        message: what is wrong.
        remedy: what to do about it.
    """

    code: str
    severity: Severity
    layer: str
    channels: Channels
    message: str
    remedy: str


# Statistics that are unused or broken explain everything else that could be said about such a channel.
BROKEN = ("train-mode", "nonfinite", "negative-variance", "infinite-gain")
# Channels without a signal: their scaling does not matter.
IDLE = (*BROKEN, "dead-channels", "dead-inputs")

RULES: tuple[Rule | NetworkRule, ...] = (
    Rule(
        code="train-mode",
        severities=("error",),
        when="an ONNX node with training_mode=1, or before opset 14 with outputs for batch statistics",
        why="it normalises by the batch also in inference, so an image's output changes with its batch",
        affected=statistics.in_train_mode,
        message=statistics.in_train_mode_message,
        remedy="Export the model in eval mode: model.eval() in PyTorch, training=False in Keras.",
    ),
    Rule(
        code="nonfinite",
        severities=("error",),
        when="a NaN or infinity in mean, var, γ or β",
        why="one bad batch poisons a running average for good",
        affected=statistics.nonfinite,
        message=statistics.nonfinite_message,
        remedy="{earlier}; train with {calmer}.",
    ),
    Rule(
        code="negative-variance",
        severities=("error",),
        when="var < 0",
        why="an average of variances cannot be negative; below −ε the output is NaN",
        unless=("nonfinite",),
        affected=statistics.negative_variance,
        message=statistics.negative_variance_message,
        remedy="{recalibrate}",
    ),
    Rule(
        code="infinite-gain",
        severities=("error",),
        when="var + ε = 0, or a gain or shift above float32's maximum",
        why="the output is infinite or NaN; happens with ε = 0 on a constant channel",
        unless=("train-mode", "nonfinite", "negative-variance"),
        affected=precision.infinite_gain,
        message=precision.infinite_gain_message,
        remedy="Set {epsilon} as it was in training. If it was 0, prune the constant channels.",
    ),
    Rule(
        code="never-updated",
        severities=("error",),
        when="mean = 0 and var = 1 in all channels, or var = momentum^k or 0 with mean 0",
        why="the initial values in Flax, Keras and PyTorch, what k passes over zeros leave of them, or arrays that a "
        "conversion did not fill in: inference does not normalise by the data",
        unless=("train-mode",),
        affected=statistics.never_updated,
        message=statistics.never_updated_message,
        remedy="{recalibrate}. Next time {update}.",
    ),
    Rule(
        code="not-converged",
        severities=("warning",),
        when=f"momentum^updates > {100 * statistics.MAX_RESIDUAL:g} %",
        why="no framework corrects this bias towards the initial value; 459 updates at momentum 0.99 are enough, 44 at "
        "0.9",
        unless=("train-mode", "never-updated"),
        affected=statistics.not_converged,
        message=statistics.not_converged_message,
        remedy="{recalibrate}. Next time train longer{or_momentum}.",
    ),
    Rule(
        code="undebiased-variance",
        severities=("warning",),
        when=f"mⁿ/(1 − mⁿ) > {100 * statistics.MAX_RESIDUAL:g} % of var + ε, after n updates at momentum m",
        why='Equinox\'s mode="batch" divides the hidden variance by 1 − mⁿ, which starts at 1, not at 0: after '
        "100 updates at 0.99 the variance is too large by 0.58",
        unless=(*BROKEN, "never-updated"),
        affected=statistics.undebiased,
        message=statistics.undebiased_message,
        remedy="{recalibrate}. Next time train longer{or_momentum}.",
    ),
    Rule(
        code="momentum-convention",
        severities=("warning",),
        when=f"momentum < {statistics.MIN_MOMENTUM:g}, as the weight of the old value",
        why="the statistics cover fewer than two batches; PyTorch's 0.1 is 0.9 in Flax and Keras (scvi-tools#2309)",
        unless=("train-mode", "never-updated"),
        affected=statistics.foreign_momentum,
        message=statistics.foreign_momentum_message,
        remedy="{recalibrate}. Next time train with {momentum}.",
    ),
    Rule(
        code="replicas-disagree",
        severities=("warning",),
        when=f"means differ by {statistics.REPLICA_DISTANCE:g} standard deviations, or standard deviations by a factor "
        f"of {statistics.REPLICA_RATIO:g}",
        why="more than the noise of their batches: the result depends on which replica is saved",
        unless=BROKEN,
        affected=statistics.replicas_disagree,
        message=statistics.replicas_message,
        remedy="{recalibrate}. Next time {synchronise}.",
    ),
    Rule(
        code="dead-channels",
        severities=("info", "warning"),
        when=f"|γ| < {DEAD_SCALE:g}, or β + {DEAD_SIGMAS:g}·|γ| < 0 before a ReLU; a warning from "
        f"{100 * scales.DEAD_SHARE_WARNING:g} % of the channels on",
        why="they carry no signal; weight decay produces up to 80 % of them without loss (Mehta et al. 2019)",
        unless=(*BROKEN, "never-updated"),
        affected=scales.dead,
        message=scales.dead_message,
        grade=scales.by_share,
        remedy="They can be pruned. If they are unintended, train with {calmer}.",
    ),
    Rule(
        code="dead-inputs",
        severities=("info", "warning"),
        when=f"mean² < ε and var < ε; a warning from {100 * scales.DEAD_SHARE_WARNING:g} % of the channels on",
        why="no signal arrives: a dead ReLU or filter comes before, as in 22 % of one layer of EfficientNet-Lite0",
        unless=(*BROKEN, "never-updated", "dead-channels"),
        affected=scales.dead_inputs,
        message=scales.dead_inputs_message,
        grade=scales.by_share,
        remedy="They can be pruned, with the filters that feed them. If the whole layer has inputs this small, set a "
        "smaller {epsilon}.",
    ),
    Rule(
        code="epsilon-dominated",
        severities=("warning",),
        when="var < ε, and mean² ≥ ε",
        why="an almost constant input: ε alone sets the gain, up to 316-fold at 1e-5, and amplifies noise by it",
        unless=(*IDLE, "never-updated"),
        affected=scales.epsilon_dominated,
        message=scales.epsilon_dominated_message,
        remedy="{look_at_data}: is it constant? If not, recalibrate. A larger {epsilon} limits the gain.",
    ),
    Rule(
        code="cancellation-risk",
        severities=("warning",),
        when=f"mean²·2⁻²⁴ > {100 * precision.MAX_VARIANCE_ERROR:g} % of var + ε: |mean| above 410 standard deviations",
        why="E[x²] − E[x]² loses the variance in float32 (Chan et al. 1983); Flax's use_fast_variance computes it so",
        unless=(*IDLE, "epsilon-dominated"),
        affected=precision.cancellation,
        message=precision.cancellation_message,
        remedy="{recalibrate}. Next time centre the layer's input, or {one_pass}.",
    ),
    Rule(
        code="exploding-gain",
        severities=("info", "warning"),
        when=f"|γ|/√(var + ε) > {scales.LARGE_GAIN:g}, and > {scales.LARGE_GAIN_RATIO:g} times the layer's median; a "
        f"warning above {scales.MAX_GAIN:g}",
        why="it turns 1 % of a unit into a standard deviation. Seldom active ReLU channels reach 100 in healthy "
        "networks; ε = 1e-5 allows 316·|γ|",
        unless=(*IDLE, "epsilon-dominated", "cancellation-risk"),
        affected=scales.exploding_gain,
        message=scales.exploding_gain_message,
        grade=scales.by_gain,
        remedy="{look_at_data}: if its variance is larger, recalibrate; if not, a larger {epsilon} limits the gain. "
        "If |γ| keeps growing, train with {calmer}.",
    ),
    Rule(
        code="scale-outlier",
        severities=("info",),
        when=f"|γ| > {scales.MAX_SCALE_RATIO:g} times the layer's median",
        why="8 bits with one scale for the layer leave half of its channels 4 bits (Nagel et al. 2019); "
        "EfficientNet-Lite0 reaches 10",
        unless=(*IDLE, "exploding-gain"),
        affected=scales.scale_outlier,
        message=scales.scale_outlier_message,
        remedy="Matters for 8-bit quantisation only: use one scale per channel, or equalise the channels first.",
    ),
    Rule(
        code="float16-overflow",
        severities=("info", "warning"),
        when=f"mean, var, γ, β, gain or shift above {precision.FLOAT16_MAX:g}; a warning if stored in float16",
        why="it becomes infinity in float16, folded or not",
        unless=(*IDLE, "epsilon-dominated", "cancellation-risk", "exploding-gain"),
        affected=precision.overflows_float16,
        message=precision.overflow_message,
        grade=precision.graver_if_float16,
        remedy="Use it in float32 or bfloat16, or scale the network's input down.",
    ),
    Rule(
        code="bfloat16-precision",
        severities=("info", "warning"),
        when="|mean| above 256 standard deviations; a warning if stored in bfloat16",
        why="adjacent bfloat16 numbers are 2⁻⁸·|mean| apart there, more than a standard deviation",
        unless=(*IDLE, "epsilon-dominated", "cancellation-risk"),
        affected=precision.coarse_in_bfloat16,
        message=precision.coarse_message,
        grade=precision.graver_if_bfloat16,
        remedy="{float32}, or centre its input.",
    ),
    NetworkRule(
        code="epsilon-differs",
        severities=("info", "warning"),
        when=f"not the ε of most layers; a warning if theirs would change a gain by {100 * network.EPSILON_EFFECT:g} %",
        why="few weight files store ε, and conversions lose it: Flax and PyTorch default to 1e-5, Keras to 1e-3",
        affected=network.other_epsilon,
        message=network.other_epsilon_message,
        grade=network.grade_epsilon,
        remedy="Nothing to do if it was trained so. If a conversion lost it, set {epsilon} as it was in training.",
    ),
    Rule(
        code="not-foldable",
        severities=("info",),
        when="a trial fold keeps the layer; checked if the model is known",
        why="the reason is the folder's own, as `bncli fold` reports it",
        unless=BROKEN,
        affected=network.kept_in_a_fold,
        message=network.kept_message,
        remedy="Nothing is wrong; it costs one multiply-add. It folds right behind a convolution or dense layer.",
    ),
)

RULES_ON_DATA: tuple[DataRule, ...] = (
    DataRule(
        code="stale-statistics",
        severities=("warning", "error"),
        when=f"with --data: running means {on_data.STALE_DISTANCE:g} standard deviations off, or standard deviations "
        f"off by a factor of {on_data.STALE_RATIO:g}; an error if accuracy is lost",
        why="healthy ones are within a tenth; not-converged describes the most common cause",
        affected=on_data.stale,
        message=on_data.stale_message,
        grade=on_data.by_lost_accuracy,
        remedy="{recalibrate}",
    ),
    DataRule(
        code="train-eval-gap",
        severities=("error",),
        when=f"with --data: accuracy {100 * on_data.ACCURACY_GAP:g} % lower with running than with batch statistics",
        why="more than chance explains in a few hundred images; reported at the layer where the modes first diverge",
        affected=on_data.train_eval_gap,
        message=on_data.train_eval_gap_message,
        remedy="{recalibrate}",
    ),
)


def find(
    layers: Iterable[BatchNormArrays],
    *,
    file_format: str = "bncli",
    path: str = "CKPT",
    step: str = remedies.BEST,
    options: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """The findings about the layers of one network, most severe first.

    Args:
        layers: in the order of the forward pass.
        file_format: the report's; remedies differ between frameworks.
        path: the checkpoint's, for remedies that are commands.
        step: the save, as ``--step`` takes it, for the same.
        options: the further words of such commands.
    """
    layers = tuple(layers)
    rules = tuple(rule.on(layers) for rule in RULES)
    fill_in = partial(remedies.fill_in, file_format=file_format, path=path, step=step, options=options)
    with np.errstate(all="ignore"):
        found = [finding for layer in layers for finding in _on_layer(layer, rules, fill_in)]
    return most_severe_first(found)


def find_on_data(
    report: LiveReport,
    *,
    path: str,
    step: str = remedies.BEST,
    file_format: str = "bncli",
    options: Sequence[str] = (),
) -> tuple[Finding, ...]:
    """The findings about what data showed; within a rule, the layer where the trouble begins comes first.

    Args:
        report: the measurements; the others are as ``find`` takes them.
    """
    fill_in = partial(remedies.fill_in, file_format=file_format, path=path, step=step, options=options)
    return tuple(
        Finding(
            code=rule.code,
            severity=rule.grade(report) if rule.grade else rule.severities[0],
            layer=layer.name,
            channels=(),
            message=rule.message(report, layer),
            remedy=fill_in(rule.remedy),
        )
        for rule in RULES_ON_DATA
        for layer in rule.affected(report)
    )


def most_severe_first(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """The findings by severity; equals keep their order."""
    return tuple(sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity)))


def catalogue() -> tuple[Entry, ...]:
    """Every finding for the documentation, each with the remedy for a checkpoint of bncli at ``CKPT``."""
    return tuple(
        Entry(
            code=rule.code,
            severities=rule.severities,
            when=rule.when,
            why=rule.why,
            remedy=remedies.fill_in(rule.remedy, file_format="bncli", path="CKPT"),
            unless=rule.unless,
        )
        for rule in (*RULES, *RULES_ON_DATA)
    )


def _on_layer(layer: BatchNormArrays, rules: Iterable[Rule], fill_in: Callable[..., str]) -> Iterator[Finding]:
    """The findings in the order of the rules, each without the channels that its ``unless`` already explains."""
    explained: dict[str, np.ndarray] = {}
    for rule in rules:
        flags = rule.affected(layer)
        affected = np.broadcast_to(flags, layer.channels) & ~_explained(rule, explained, layer)
        if not affected.any():
            continue
        explained[rule.code] = affected
        channels = channels_where(affected)
        yield Finding(
            code=rule.code,
            severity=rule.grade(layer, channels) if rule.grade else rule.severities[0],
            layer=layer.name,
            channels=channels if isinstance(flags, np.ndarray) else (),
            message=rule.message(layer, channels),
            remedy=fill_in(rule.remedy, momentum=layer.momentum),
        )


def _explained(rule: Rule, explained: Mapping[str, np.ndarray], layer: BatchNormArrays) -> np.ndarray:
    """Bool [C]: the channels with a finding that already says the same."""
    none = np.zeros(layer.channels, bool)
    return np.any([none, *(explained[code] for code in rule.unless if code in explained)], axis=0)
