"""``bncli lr-find`` as a user runs it: the suggestion, the figure, a checkpoint that is only read, and refusals."""

import html
import xml.etree.ElementTree as ET

import pytest

from cli.conftest import SMALL, TINY, document, invoke, succeed

SHORT = ["--steps", 12]


def test_it_tells_the_curve_and_the_rate_with_its_rule(tmp_path):
    figure = tmp_path / "curve.svg"
    text = succeed("lr-find", *SHORT, *TINY, "--figure", figure)
    assert "smoothed" in text
    assert "12 steps of mlp on digits" in text
    assert ET.parse(figure).getroot().tag.endswith("svg")
    assert "learning rate" in figure.read_text(encoding="utf-8")
    refused = invoke("lr-find", *SHORT, *TINY, "--figure", figure)
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    assert invoke("lr-find", *SHORT, *TINY, "--figure", figure, "--overwrite").exit_code == 0


def test_a_page_loads_nothing(tmp_path):
    figure = tmp_path / "curve.html"
    succeed("lr-find", *SHORT, *TINY, "--figure", figure)
    page = figure.read_text(encoding="utf-8")
    assert "default-src 'none'" in html.unescape(page)
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")


@pytest.mark.broad
def test_a_checkpoint_gives_its_network_and_settings_and_is_only_read(ckpt):
    before = {path: path.read_bytes() for path in ckpt.rglob("*") if path.is_file()}
    fresh = document("lr-find", *SHORT, *SMALL)
    trained = document("lr-find", "--from", ckpt, *SHORT, "--quiet")
    assert trained["config"]["model"] == fresh["config"]["model"]
    assert trained["points"][0]["loss"] < fresh["points"][0]["loss"]
    assert {path: path.read_bytes() for path in ckpt.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--lowest", "1", "--highest", "0.1"], 2, "--lowest 1 is not below --highest 0.1"),
        (["--figure", "curve.png"], 2, "neither .svg nor .html"),
        (["--steps", "1"], 2, "--steps"),
        (["--rule", "best"], 2, "--rule"),
        (["--from", "nowhere"], 1, "nowhere"),
    ],
)
def test_what_cannot_be_meant_is_refused(words, code, message):
    result = invoke("lr-find", *words)
    assert result.exit_code == code
    assert message in result.stderr


def test_a_folded_checkpoint_and_another_network_are_refused(ckpt, folded):
    result = invoke("lr-find", "--from", folded)
    assert (result.exit_code, "is folded and cannot be trained" in result.stderr) == (1, True)
    result = invoke("lr-find", "--from", ckpt, "--model", "mlp")
    assert (result.exit_code, "the network is that of" in result.stderr) == (2, True)
