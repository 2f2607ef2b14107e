"""A report on terminals of 40 to 200 columns."""

from dataclasses import replace
from io import StringIO

import numpy as np
import pytest
from rich.console import Console
from support.reports import make_history, make_layer, make_live, make_report, resnet50_layers

from bncli.cli.render import comparison_text, stats_text
from bncli.cli.render.stats.pictures import BARS
from bncli.inspection.comparison import compare
from bncli.inspection.findings import Finding

PREFIX = "module.encoder.backbone."
LAST = f"{PREFIX}layer4.2.bn3"


def shown(renderable, width=80):
    """The lines on a terminal; none may be wider than the terminal."""
    console = Console(file=StringIO(), width=width, highlight=False)
    console.print(renderable)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert max(map(len, lines)) <= width
    return lines


def channel_rows(lines):
    """The words of each line that begins with a channel's number."""
    return [words for line in lines if (words := line.split()) and words[0].isdecimal() and "of" not in words]


def findings(count):
    return tuple(
        Finding("some-code", "warning", f"{PREFIX}layer1.0.bn{k}", (k,), f"says {k}", "x") for k in range(count)
    )


@pytest.fixture(scope="module")
def resnet():
    """A report with long names, a NaN and a variance close to 0."""
    planted = {"layer2_1_bn2": {"mean": {3: np.nan}}, "layer4_1_bn1": {"var": {7: 1e-9}, "mean": {7: 5.0}}}
    return make_report(resnet50_layers(PREFIX, **planted), source="resnet50.safetensors", notes=("ε is assumed",))


def test_few_layers_are_in_their_order_with_all_their_names():
    report = make_report([make_layer("a"), make_layer("b", mean={0: np.nan}), make_layer("c")], findings=())
    lines = shown(stats_text(report))
    assert lines[0] == "a file: 3 BN layers, no findings"
    assert [line.split()[0] for line in lines[2:5]] == ["a", "b", "c"]
    assert "ε = 1e-05, momentum 0.9" in lines


def test_many_layers_come_the_worst_first(resnet):
    lines = shown(stats_text(resnet))
    assert lines[0].startswith("resnet50.safetensors: 53 BN layers, 1 error, ")
    head = next(number for number, line in enumerate(lines) if line.startswith("BN layer"))
    rows = lines[head + 1 : head + 21]
    assert rows[0].startswith("✗ layer2.1.bn2 ")
    assert rows[1].startswith("! layer4.1.bn1 ")
    assert lines[head + 22] == "the worst 20 of 53 layers, worst first; --all for all"
    assert f"all names begin with {PREFIX}" in lines
    assert "ε is assumed" in lines


def test_all_layers_are_in_their_order(resnet):
    lines = shown(stats_text(resnet, everything=True))
    named = [line[2:].split()[0] for line in lines[2:55]]
    assert named == [row.name.removeprefix(PREFIX) for row in resnet.layers]
    assert "--all" not in " ".join(lines)


def test_the_table_shows_the_ends_and_the_shape():
    var = np.geomspace(1e-4, 1e3, 16)
    (row,) = (line for line in shown(stats_text(make_report([make_layer("a", var=var)]))) if line[2:].startswith("a "))
    assert "1e-4 ████████ 1000" in row  # evenly spread on the logarithmic scale
    assert row.split()[1] == "16"


def test_a_wide_terminal_shows_all_five_quantities(resnet):
    (head,) = (line for line in shown(stats_text(resnet), width=160) if line.startswith("BN layer"))
    assert head.split() == ["BN", "layer", "C", "mean", "var", "(log", "scale)", "γ", "β", "gain"]


def test_the_pictures_stand_below_one_another():
    layers = [make_layer("a", var=np.geomspace(1e-9, 12345, 16)), make_layer("b", var=np.linspace(0.1, 1, 16))]
    _, _, *rows = shown(stats_text(make_report(layers)))[:4]
    starts = [next(place for place, character in enumerate(row) if character in BARS) for row in rows]
    assert starts[0] == starts[1]


@pytest.mark.parametrize("width", [60, 80, 120])
def test_names_can_be_told_apart_at_any_width(width):
    names = [f"ResNetBlock_{block}/BatchNorm_{layer}" for block in range(4) for layer in range(3)]
    report = make_report([make_layer(name) for name in names], findings=())
    report = report.with_data(make_live(report, gaps=np.linspace(0, 2, len(names))), ())
    lines = shown(stats_text(report), width=width)
    heads = [number for number, line in enumerate(lines) if line.startswith("BN layer")]
    assert len(heads) == 2
    for head in heads:
        assert len({line.split()[0] for line in lines[head + 1 : head + 13]}) == len(names)


def test_a_narrow_terminal_keeps_the_names_and_drops_columns():
    report = make_report([make_layer(f"BatchNorm_{k}") for k in range(3)], findings=())
    for width in (40, 60, 80):
        rows = shown(stats_text(report), width=width)[2:5]
        assert [row.split()[0] for row in rows] == ["BatchNorm_0", "BatchNorm_1", "BatchNorm_2"]
    assert "gain ≤" in shown(stats_text(report), width=40)[1]


def test_counts_of_one_are_singular():
    layer = make_layer("norm", channels=1, scale={0: 1e-9})
    report = make_report([layer])
    lines = shown(stats_text(report, by_channel=True))
    assert lines[0] == "norm: 1 channel, ε = 1e-05, momentum 0.9"
    assert "channel 0" in " ".join(lines)
    assert shown(stats_text(report))[0] == "a file: 1 BN layer, 1 warning"
    same = shown(comparison_text(compare(report, report)))
    assert same[1] == "the only layer is unchanged"


def test_a_report_without_layers_says_so_first():
    lines = shown(stats_text(make_report([], source="out", notes=("folded from ckpt",))))
    assert lines == ["out: no BN layers", "folded from ckpt"]


@pytest.mark.sample(2)
@pytest.mark.parametrize("width", [40, 60, 80, 100, 132, 200])
def test_any_width(resnet, width):
    report = resnet.with_data(make_live(resnet, gaps=np.linspace(0, 9, 53)), ()).with_history(make_history(resnet))
    shown(stats_text(report, everything=True), width=width)
    shown(stats_text(report.only({LAST}), by_channel=True), width=width)


def test_layers_without_scale_bias_or_finite_numbers():
    bare = make_layer("bare", scale=None, bias=None)
    broken = make_layer("broken", mean=np.full(16, np.nan), var=np.full(16, np.inf))
    report = make_report([bare, broken])
    assert "–" in " ".join(shown(stats_text(report)))
    shown(stats_text(report, by_channel=True))


def test_one_layer_channel_by_channel():
    report = make_report([make_layer("norm", mean={3: np.nan, 5: np.inf})])
    lines = shown(stats_text(report, by_channel=True))
    assert lines[0] == "norm: 16 channels, ε = 1e-05, momentum 0.9"
    rows = channel_rows(lines)
    assert [row[0] for row in rows] == [str(channel) for channel in range(16)]
    assert [row[0] for row in rows if "nonfinite" in row] == ["3", "5"]
    numbers = [float(number) for number in rows[0][1:6]]
    layer = report.arrays[0]
    assert numbers == pytest.approx(
        [layer.mean[0], layer.var[0], layer.scale[0], layer.bias[0], layer.gain[0]], rel=0.006
    )


def test_of_many_channels_those_with_findings_are_shown(resnet):
    report = resnet.only({f"{PREFIX}layer4.1.bn1"})
    lines = shown(stats_text(report, by_channel=True))
    rows = channel_rows(lines)
    assert len(rows) == 64
    assert "epsilon-dominated" in next(" ".join(row) for row in rows if row[0] == "7")
    assert "64 of 512 channels" in " ".join(lines)
    assert len(channel_rows(shown(stats_text(report, by_channel=True, everything=True)))) == 512


def test_the_same_finding_on_many_layers_is_told_once_with_its_remedy():
    report = make_report([make_layer()], findings=findings(20))
    lines = shown(stats_text(report))
    text = "\n".join(lines)
    assert text.count("some-code") == text.count("→ x") == 1
    assert "! warning some-code on 20 layers" in lines
    assert "says 4" in text
    assert "says 5" not in text
    assert "  and 15 more" in lines
    assert "says 19" in "\n".join(shown(stats_text(report, everything=True)))


def test_findings_that_say_the_same_are_one_sentence():
    said = tuple(Finding("code", "error", name, (), "is wrong", "Repair it.") for name in "abc")
    lines = shown(stats_text(make_report([make_layer()], findings=said)))
    start = lines.index("✗ error code on 3 layers")
    assert lines[start + 1 : start + 4] == ["  a, b, c", "  is wrong", "  → Repair it."]


def test_runs_of_channels_are_in_short():
    found = (Finding("code", "info", "norm", (0, 1, 2, 3, 7, 9, 10), "says", "Do."),)
    assert "channels 0–3, 7, 9, 10" in " ".join(shown(stats_text(make_report([make_layer()], findings=found))))


def test_names_cannot_drive_the_terminal():
    evil = "a\x1b]0;pwned\x07\r[red]b[/]"
    found = (Finding("code", "error", evil, (), f"{evil} is wrong", f"Remove {evil}."),)
    report = make_report([make_layer(evil)], findings=found, source=evil, notes=(evil,))
    report = report.with_data(make_live(report, gaps=(3,)), ()).with_history(make_history(report))
    for by_channel in (False, True):
        text = "\n".join(shown(stats_text(report, by_channel=by_channel)))
        assert not {"\x1b", "\x07", "\r"} & set(text)
        assert "[red]b[/]" in text


def test_data_name_the_layer_where_the_modes_diverge():
    report = make_report([make_layer(name) for name in "abc"], findings=())
    lines = shown(stats_text(report.with_data(make_live(report, gaps=(0.1, 0.7, 3.0)), ())))
    text = "\n".join(lines)
    assert "digits: statistics of 1,294 training images, scores on 144 validation images" in text
    assert "train mode and eval mode first diverge at b" in lines
    assert [line.split()[:3] for line in lines if line.startswith(("running (", "of batches"))] == [
        ["running", "(eval", "mode)"],
        *(["of", "batches", "of"] for _ in range(3)),
    ]
    assert "diverge at no layer" in "\n".join(
        shown(stats_text(report.with_data(make_live(report, gaps=(0, 0, 0)), ())))
    )


def test_of_many_layers_on_data_the_worst_are_shown_in_their_order(resnet):
    gaps = np.linspace(0.0, 2.0, 53)
    lines = shown(stats_text(resnet.with_data(make_live(resnet, gaps=gaps), ())))
    start = next(number for number, line in enumerate(lines) if "mean off by" in line)
    named = [line.split()[0] for line in lines[start + 1 : start + 21]]
    order = [row.name.removeprefix(PREFIX) for row in resnet.layers]
    assert named == sorted(named, key=order.index)
    assert named[-1] == "layer4.2.bn3"
    assert order[next(k for k, gap in enumerate(gaps) if gap > 0.5)] in named
    assert "the worst 20 of 53 layers; --all for all" in lines


def test_history_is_three_charts_a_layer():
    report = make_report([make_layer("a"), make_layer("b")])
    lines = shown(stats_text(report.with_history(make_history(report))))
    start = lines.index("a")
    assert lines[start + 1].split() == ["output", "running", "mean", "running", "var"]
    assert all(line.count("┤") == 3 for line in lines[start + 2 : start + 6])
    assert lines[start + 6] == "b"
    assert "epochs 1–20" in " ".join(lines)


def test_of_many_charts_the_first_few_are_shown(resnet):
    report = resnet.with_history(make_history(resnet))
    assert "6 of 53 layers" in " ".join(shown(stats_text(report)))
    assert sum("┤" in line for line in shown(stats_text(report, everything=True))) == 53 * 4


def test_the_outputs_of_a_network_without_bn_stand_side_by_side():
    report = make_report([make_layer(f"Dense_{k}") for k in range(7)])
    outputs = tuple(replace(layer, mean=None, var=None) for layer in make_history(report))
    bare = make_report([], source="nobn", notes=("trained without BN",)).with_history(outputs)
    lines = shown(stats_text(bare))
    assert lines[:2] == ["nobn: no BN layers", "trained without BN"]
    assert "running" not in "\n".join(lines)
    start = lines.index("Dense_0                   Dense_1                   Dense_2")
    assert all(line.count("┤") == 3 for line in lines[start + 1 : start + 5])
    assert "6 of 7 layers; --all for all" in lines


def test_a_comparison(resnet):
    healed = make_report(resnet50_layers(PREFIX, layer4_2_bn3={"mean": np.full(2048, 9.0)}), source="out")
    lines = shown(comparison_text(compare(resnet, healed)))
    text = "\n".join(lines)
    assert lines[0] == "resnet50.safetensors → out"
    assert lines[1].split()[:2] == ["BN", "layer"]
    assert "50 other layers are unchanged" in lines
    assert "gone" in lines
    assert "✗ error nonfinite on" in text
    assert shown(comparison_text(compare(healed, healed)))[1] == "all 53 layers are unchanged"


def test_a_comparison_of_many_changes_shows_the_largest(resnet):
    other = make_report([make_layer(row.name, row.channels, seed=99) for row in resnet.layers])
    lines = shown(comparison_text(compare(resnet, other)))
    assert "20 of 53, the largest changes first; --all for all" in lines
    assert len(shown(comparison_text(compare(resnet, other), everything=True))) > 53


def test_a_comparison_of_strangers():
    a = make_report([make_layer("a", mean={0: np.nan}), make_layer("x")])
    b = make_report([make_layer("b", var={0: -1}), make_layer("x", channels=4)])
    lines = shown(comparison_text(compare(a, b)))
    assert lines[1:] == [
        "the networks are unrelated: no BN layer has the same name and size in both",
        "only in a file: a",
        "only in a file: b",
        "with a different number of channels: x",
    ]
    assert "no BN layer of the same name and size in both" in shown(comparison_text(compare(a, make_report([]))))


def test_a_finding_on_a_layer_that_is_not_there_any_more_is_not_gone():
    kept = make_layer("kept")
    a, b = make_report([make_layer("cut", mean={0: np.nan}), kept]), make_report([kept])
    lines = shown(comparison_text(compare(a, b)))
    assert lines[1:3] == ["the only layer is unchanged", "only in a file: cut"]
    assert "gone" not in lines


def test_another_epsilon_is_a_line():
    epsilon = compare(make_report([make_layer("a")]), make_report([make_layer("a", epsilon=1e-3)]))
    assert "a: ε 1e-05 → 0.001" in shown(comparison_text(epsilon))


@pytest.mark.parametrize("width", range(40, 120, 7))
def test_a_short_name_keeps_its_column_and_no_column_is_cut(width):
    numbers = {"mean": np.array([0.0, 3]), "var": np.array([1.0, 4]), "scale": np.full(2, 1.5), "bias": np.full(2, 0.1)}
    lines = shown(stats_text(make_report([make_layer("N1", **numbers)], findings=())), width)
    row = next(line for line in lines if line.strip().startswith("N1 "))
    assert row.split()[-1] == "1.5" or width > 100  # where the gains have a picture
    assert not [line for line in lines if line.strip() in ("la", "ye", "r")]
