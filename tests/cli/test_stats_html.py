"""The HTML report: well-formed, self-contained, inert whatever a layer is called, and readable without its script."""

from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from itertools import pairwise

import numpy as np
import pytest
from support.pages import Page
from support.reports import make_history, make_layer, make_live, make_report, resnet50_layers

from bncli.cli.render import stats_html
from bncli.cli.render.html.markup import Html, element, join
from bncli.inspection.findings import Finding

EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;\x1b]"


def everything(layers, **changes):
    """A report with every optional part."""
    report = make_report(layers, **changes)
    count = len(report.layers)
    report = report.with_data(make_live(report, gaps=np.linspace(0.1, 3, count)), ())
    return report.with_history(make_history(report))


@pytest.fixture(scope="module")
def resnet():
    planted = {"layer2_1_bn2": {"mean": {3: np.nan}}, "layer4_1_bn1": {"var": {7: 1e-9}, "mean": {7: 5.0}}}
    return everything(resnet50_layers("backbone.", **planted), source="resnet50.safetensors", notes=("ε is assumed",))


@pytest.fixture(scope="module")
def page(resnet):
    return Page(stats_html(resnet))


def test_it_loads_nothing(resnet):
    page = Page(stats_html(resnet))
    for _, attributes in page.elements:
        assert not {"src", "srcset", "action", "data", "style"} & set(attributes)
        assert attributes.get("href", "#").startswith("#")
        assert not any(name.startswith("on") for name in attributes)
    assert {tag for tag, _ in page.elements}.isdisjoint({"link", "img", "iframe", "object", "base", "form"})
    style = page.text("style")
    assert "url(" not in style
    assert "@import" not in style
    assert "//" not in page.text("script").replace("// ", "")
    assert "http" not in stats_html(resnet).replace("http-equiv", "")


def test_its_policy_admits_its_own_style_and_script_only(page):
    (policy,) = (meta["content"] for meta in page.named("meta") if "http-equiv" in meta)
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    for directive, tag in (("style-src", "style"), ("script-src", "script")):
        digest = b64encode(sha256(page.text(tag).encode()).digest()).decode()
        assert rules[directive] == f"'sha256-{digest}'"
        assert len(page.named(tag)) == 1


def test_a_layers_name_is_text_wherever_it_stands():
    found = (Finding(EVIL, "error", EVIL, (1,), EVIL, f"Remove {EVIL} by --{EVIL}."),)
    report = everything([make_layer(EVIL), make_layer("good")], source=EVIL, format=EVIL, notes=(EVIL,))
    report = replace(report, findings=found, data=replace(report.data, first_apart=EVIL, dataset=EVIL))
    text = stats_html(report)
    page = Page(text)
    assert len(page.named("script")) == 1
    assert page.named("img") == []
    assert not any(name.startswith("on") for _, attributes in page.elements for name in attributes)
    assert "alert" not in page.text("script")
    assert page.words.count("<script>alert(1)</script>") >= 8
    assert "\x1b" not in text
    assert page.text("title").startswith("BN layers of <script>alert(1)</script>\"'>")


def test_markup_is_escaped_by_construction():
    assert element("p", "a<b", element("b", "&"), None, class_='x"y') == '<p class="x&quot;y">a&lt;b<b>&amp;</b></p>'
    assert element("meta", charset="utf-8") == '<meta charset="utf-8">'
    assert element("details", open=True, id=None, hidden=False) == "<details open></details>"
    assert join("<", Html("<br>"), "") == "&lt;<br>"


def test_every_layer_has_a_row_a_card_and_its_plots(resnet, page):
    names = [row.name for row in resnet.layers]
    anchors = [attributes["id"] for attributes in page.named("div") if attributes.get("id", "").startswith("layer-")]
    assert anchors == [f"layer-{number}" for number in range(len(names))]
    for name in names:
        assert page.words.count(name) >= 2
    labels = [svg.get("aria-label", "") for svg in page.named("svg")]
    for quantity in ("mean of", "var of", "γ scale of", "β bias of", "gain of"):
        assert sum(label.startswith(quantity) for label in labels) == len(names)
    for track in ("output over", "running mean over", "running var over"):
        assert sum(label.startswith(track) for label in labels) == len(names)


def test_links_lead_somewhere(page):
    targets = {f"#{attributes['id']}" for _, attributes in page.elements if "id" in attributes}
    links = {attributes["href"] for attributes in page.named("a")}
    assert links <= targets
    assert len(targets) == sum("id" in attributes for _, attributes in page.elements)


def test_it_can_be_used_without_eyes_pointer_or_script(page):
    assert page.named("html")[0]["lang"] == "en"
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.named("svg"))
    assert all("scope" in head for head in page.named("th"))
    (scroll,) = (attributes for attributes in page.named("div") if attributes.get("class") == "scroll")
    assert scroll["tabindex"] == "0"
    assert scroll["aria-label"]
    assert page.named("button") == []  # the script makes them: without it nothing should look like a button
    headings = [int(tag[1]) for tag, _ in page.elements if tag in ("h1", "h2", "h3", "h4")]
    assert headings[0] == 1
    assert all(after - before <= 2 for before, after in pairwise(headings))


def test_the_table_starts_with_the_worst_and_can_be_sorted_by_numbers(resnet, page):
    ascending = [attributes["data-order"] for attributes in page.named("th") if "data-order" in attributes]
    assert ascending == ["ascending", "ascending"]  # the place and the name; of numbers the largest come first
    names = [attributes["data-value"] for attributes in page.named("th") if "data-value" in attributes]
    assert names[:2] == ["backbone.layer2.1.bn2", "backbone.layer4.1.bn1"]
    assert sorted(names) == sorted(row.name for row in resnet.layers)
    values = [cell["data-value"] for cell in page.named("td") if "data-value" in cell]
    assert all(value == "" or np.isfinite(float(value)) for value in values)


def test_findings_come_with_their_remedy(resnet, page):
    for finding in resnet.findings:
        assert finding.code in page.words
        assert finding.message in page.words
        assert finding.remedy in "".join(text for _, text in page.texts)
    assert "ε is assumed" in page.words


def test_reports_with_less_in_them():
    healthy = make_report([make_layer("a")], findings=())
    assert "no findings" in Page(stats_html(healthy)).words
    folded = make_report([], notes=("folded from ckpt",))
    page = Page(stats_html(folded))
    assert "folded from ckpt" in page.words
    assert page.named("table") == []
    bare = make_layer("bare", scale=None, bias=None)
    broken = make_layer("broken", mean=np.full(16, np.nan), var=np.full(16, np.inf))
    assert "16 not finite" in Page(stats_html(everything([bare, broken]))).words


def test_a_network_without_bn_shows_its_history_in_cards():
    report = make_report([make_layer(f"Dense_{k}") for k in range(3)])
    outputs = tuple(replace(layer, mean=None, var=None) for layer in make_history(report))
    page = Page(stats_html(make_report([], notes=("trained without BN",)).with_history(outputs)))
    assert [attributes.get("class") for attributes in page.named("div")].count("card") == 3
    assert "Dense_2" in page.words
    assert len(page.named("svg")) == 3
    assert page.words.count("The line is the median") == 1
    assert page.text("h2") == "NotesHistory"


def test_counts_of_one_are_singular():
    page = Page(stats_html(make_report([make_layer("norm", channels=1, scale={0: 1e-9})])))
    assert "1 channel " in page.words
    assert "channels 0" not in page.words


def test_medians_are_called_medians(page):
    seconds = [text for around, text in page.texts if around == "small"]
    assert seconds == [*["median"] * 4, "largest", "channels", "off by", "running/true", "gap"]


def test_gaps_in_a_history_and_one_epoch():
    report = make_report([make_layer("a")])
    (layer,) = make_history(report, epochs=3)
    holed = replace(layer.output, p50=(0.0, float("nan"), 0.5))
    page = Page(stats_html(report.with_history((replace(layer, output=holed),))))
    assert "nan" not in " ".join(line["points"] for line in page.named("polyline"))
    Page(stats_html(report.with_history(make_history(report, epochs=1))))


def test_it_is_the_same_every_time_and_not_large(resnet):
    text = stats_html(resnet)
    assert text == stats_html(resnet)
    assert len(text) < 2**20
