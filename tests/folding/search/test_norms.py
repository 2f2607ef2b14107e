"""One BN is one row under its author's name, whichever framework filed its statistics."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax import lax

from bncli.errors import FoldError
from bncli.folding import NothingToFoldWarning, fold
from bncli.folding.search.norms import is_variance, module_name, norm_name, statistic
from folding.oracle import inputs, relu

X = inputs(2, 6, 5, 3).astype(np.float32)
RNG = np.random.default_rng(0)
KERNEL = RNG.normal(size=(3, 3, 3, 4)).astype(np.float32)
OTHER = RNG.normal(size=(3, 3, 4, 4)).astype(np.float32)
NUMBERS = ("NHWC", "HWIO", "NHWC")

PATHS = {
    ("batch_stats", "BatchNorm_0", "mean"): ("BatchNorm_0", "mean"),
    ("batch_stats", "Block_1", "bn", "var"): ("Block_1/bn", "var"),
    ("batch_stats", "mean"): ("BatchNorm", "mean"),
    ("batch_stats", "layers", "0", "var", "value"): ("layers/0", "var"),
    ("batch_stats", "net/~/batch_norm/~/mean_ema", "average"): ("net/~/batch_norm", "mean_ema"),
    ("batch_stats", "net/~/batch_norm/~/var_ema", "hidden"): ("net/~/batch_norm", "var_ema"),
    ("batch_stats", "layer1.0.bn1.running_var"): ("layer1.0.bn1", "running_var"),
    ("state", "batch_stats", "bn", "moving_variance"): ("bn", "moving_variance"),
    ("batch_stats", "bn", "steps"): ("bn", "steps"),
    ("batch_stats", "mean", "bn", "var"): ("mean/bn", "var"),
}


@pytest.mark.parametrize("path", PATHS)
def test_a_path_names_the_layer_and_the_statistic(path):
    assert (norm_name(path), statistic(path)) == PATHS[path]
    assert is_variance(path) == (PATHS[path][1] in {"var", "var_ema", "running_var", "moving_variance"})


def test_a_module_is_named_without_the_box_around_its_array():
    assert module_name(("params", "Block_1", "Conv_0", "kernel")) == "Block_1/Conv_0"
    assert module_name(("params", "c", "kernel", "value")) == "c"
    assert module_name(("params", "attention", "value")) == "attention"
    assert module_name(("params", "w")) == ""
    assert module_name(("0", "block", "w")) == "block"
    assert module_name(("block", "conv", "kernel", "value")) == "block/conv"
    assert module_name(("conv", "value", "bias")) == "conv/value"


def arrays():
    """Mean, var, scale and bias of one BN of four channels."""
    return (
        RNG.normal(size=4).astype(np.float32),
        RNG.uniform(0.5, 2, size=4).astype(np.float32),
        RNG.uniform(0.5, 2, size=4).astype(np.float32),
        RNG.normal(size=4).astype(np.float32),
    )


def conv(x, kernel):
    return lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=NUMBERS)


# x, mean, var, scale, bias -> BN, in the orders in which frameworks compute it.
FORMULAS = {
    "flax": lambda x, m, v, s, b: (x - m) * (lax.rsqrt(v + 1e-3) * s) + b,
    "equinox": lambda x, m, v, s, b: (x - m) / jnp.sqrt(v + 1e-3) * s + b,
    "keras": lambda x, m, v, s, b: x * (s / jnp.sqrt(v + 1e-3)) + (b - m * (s / jnp.sqrt(v + 1e-3))),
    "haiku": lambda x, m, v, s, b: (x - m) * (s * lax.rsqrt(v + 1e-3)) + b,
}


def rows(report):
    return [(row.name, row.status) for row in report.norms]


@pytest.mark.parametrize("formula", FORMULAS)
def test_statistics_in_a_list_are_one_layer_if_one_bn_reads_them(formula):
    """Keras: one list of statistics, one of parameters. Two BN in a row are two layers, a counter is none."""
    norm = FORMULAS[formula]
    (m0, v0, s0, b0), (m1, v1, s1, b1), (m2, v2, s2, b2) = arrays(), arrays(), arrays()
    variables = {
        "params": [KERNEL, s0, b0, s1, b1, OTHER, s2, b2],
        "batch_stats": [m0, v0, m1, v1, np.int32(3), m2, v2],
    }

    def apply(v, x):
        p, s = v["params"], v["batch_stats"]
        y = norm(norm(conv(x, p[0]), s[0], s[1], p[1], p[2]), s[2], s[3], p[3], p[4])
        return conv(relu(norm(conv(relu(y), p[5]), s[5], s[6], p[6], p[7])), OTHER)

    report = fold(apply, variables, X, verify=False).report
    assert rows(report) == [(f"BatchNorm_{number}", "folded") for number in range(3)]
    kept = fold(apply, variables, X, exclude=["BatchNorm_2"], verify=False).report
    assert [row.status for row in kept.norms] == ["folded", "folded", "kept"]


@pytest.mark.parametrize("formula", FORMULAS)
def test_statistics_without_names_are_named_after_scale_and_bias(formula):
    """Equinox: the parameters are in modules, the statistics are numbered states."""
    norm = FORMULAS[formula]
    (m0, v0, s0, b0), (m1, v1, s1, b1) = arrays(), arrays()
    params = {
        "conv": {"weight": KERNEL},
        "bn1": {"weight": s0, "bias": b0},
        "block": {"bn2": {"weight": s1, "bias": b1}},
    }
    variables = {"params": params, "batch_stats": [(m0, v0), (m1, v1)]}

    def apply(v, x):
        p, s = v["params"], v["batch_stats"]
        y = relu(norm(conv(x, p["conv"]["weight"]), *s[0], p["bn1"]["weight"], p["bn1"]["bias"]))
        return relu(norm(y, *s[1], *(p["block"]["bn2"][name] for name in ("weight", "bias"))))

    report = fold(apply, variables, X, verify=False).report
    assert rows(report) == [("bn1", "folded"), ("block/bn2", "kept")]
    assert (report.folded, report.kept) == (1, 1)
    assert rows(fold(apply, variables, X, exclude=["bn1"], verify=False).report)[0] == ("bn1", "kept")


def test_haiku_files_each_average_in_a_module_of_its_own():
    (m0, v0, s0, b0), (m1, v1, s1, b1) = arrays(), arrays()

    def averages(name, mean, var):
        boxes = {"mean_ema": mean, "var_ema": var}
        return {f"{name}/~/{k}": {"average": a, "hidden": a * 0.5, "counter": np.int32(3)} for k, a in boxes.items()}

    variables = {
        "params": {"conv": {"w": KERNEL}, "bn": {"scale": s0, "offset": b0}, "bn_1": {"scale": s1, "offset": b1}},
        "batch_stats": averages("bn", m0, v0) | averages("bn_1", m1, v1),
    }

    def norm(v, name, x):
        mean, var = (v["batch_stats"][f"{name}/~/{k}"]["average"] for k in ("mean_ema", "var_ema"))
        return FORMULAS["haiku"](x, mean, var, v["params"][name]["scale"], v["params"][name]["offset"])

    def apply(v, x):
        return relu(norm(v, "bn_1", relu(norm(v, "bn", conv(x, v["params"]["conv"]["w"])))))

    report = fold(apply, variables, X).report
    assert rows(report) == [("bn", "folded"), ("bn_1", "kept")]
    assert rows(fold(apply, variables, X, include=["bn_1"], verify=False).report)[0] == ("bn", "kept")
    variables["batch_stats"]["bn/~/var_ema"]["average"] = -v0
    with pytest.raises(FoldError, match=r"^bn: its running variance is negative"):
        fold(apply, variables, X)


class Net(nnx.Module):
    """A BN in front of a ReLU, which is kept, and one behind a convolution."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.kept, self.folded = (nnx.BatchNorm(width, rngs=rngs) for width in (3, 4))
        self.conv = nnx.Conv(3, 4, (3, 3), use_bias=False, rngs=rngs)

    def __call__(self, x):
        return nnx.relu(self.folded(self.conv(nnx.relu(self.kept(x)))))


def test_nnx_boxes_each_array():
    net = Net()
    net.eval()
    graph, params, stats, rest = nnx.split(net, nnx.Param, nnx.BatchStat, ...)

    def apply(v, x):
        return nnx.merge(graph, v["params"], v["batch_stats"], rest)(x)

    variables = {"params": params, "batch_stats": jax.tree.map(lambda a: a + 0.3, stats)}
    folded = fold(apply, variables, X)
    assert rows(folded.report) == [("kept", "kept"), ("folded", "folded")]
    assert folded.report.norms[1].into == ("conv",)
    assert set(folded.variables["params"]["conv"]) == {"kernel", "bias"}
    with pytest.raises(FoldError, match=r"^folded: its running variance is negative"):
        fold(apply, {**variables, "batch_stats": jax.tree.map(lambda a: -a, stats)}, X)
    whole = nnx.state(net, nnx.Any(nnx.Param, nnx.BatchStat))
    whole = jax.tree.map(lambda a: a + 0.3, whole)
    report = fold(lambda v, x: nnx.merge(graph, v, rest)(x), whole, X, verify=False).report
    assert rows(report) == [("kept", "kept"), ("folded", "folded")]
    assert report.recognised == "by structure"
    assert report.norms[1].into == ("conv",)


def test_a_path_that_ends_in_no_known_statistic_keeps_its_module_as_its_name():
    """A layer's own kind of statistics: the square root of the variance."""
    mean, var, scale, bias = arrays()
    variables = {"params": {"a": KERNEL}, "batch_stats": {"own": {"center": mean, "deviation": np.sqrt(var)}}}

    def apply(v, x):
        stats = v["batch_stats"]["own"]
        return relu((conv(x, v["params"]["a"]) - stats["center"]) / stats["deviation"] * scale + bias)

    assert rows(fold(apply, variables, X, verify=False).report) == [("own", "folded")]


MEAN, VAR, SCALE, BIAS = arrays()


def block(stats, x):
    return relu(FORMULAS["flax"](conv(x, KERNEL), stats["mean"], stats["var"], SCALE, BIAS))


def test_statistics_under_another_key_are_an_error():
    """Precomputed standard deviations show no variance."""

    def apply(v, x):
        return relu((conv(x, KERNEL) - v["stats"]["bn"]["mean"]) * v["stats"]["bn"]["std"])

    with pytest.raises(FoldError, match="stats/bn/mean looks like running statistics") as error:
        fold(apply, {"stats": {"bn": {"mean": MEAN, "std": VAR}}}, X)
    assert "statistics=" in error.value.remedy


def test_a_network_without_statistics_is_said_to_have_none():
    with pytest.warns(NothingToFoldWarning, match="no running statistics are among the variables"):
        folded = fold(lambda v, x: block({"mean": MEAN, "var": VAR}, x * v["w"]), {"w": np.float32(2)}, X)
    assert folded.report.norms == ()


def test_statistics_that_the_network_does_not_use_are_said_not_to_be_used():
    with pytest.warns(NothingToFoldWarning, match="uses none of the running statistics"):
        fold(lambda v, x: conv(x, KERNEL), {"batch_stats": {"bn": {"mean": MEAN, "var": VAR}}}, X)


def test_a_folded_network_is_folded_again_without_a_word():
    folded = fold(lambda v, x: block(v["batch_stats"]["bn"], x), {"batch_stats": {"bn": {"mean": MEAN, "var": VAR}}}, X)
    assert fold(folded.apply, folded.variables, X).report.norms == ()
