"""Laws of `scripts/check_site.py`: broken links, foreign addresses and nothing else are reported."""

import pytest

from docs.conftest import check_site

GOOD = '<a href="#here">x</a><p id="here"></p><a href="sub/b.html#there">y</a><a href="https://jax.dev/a?b#c">z</a>'


@pytest.fixture
def site(tmp_path):
    """Two pages without a fault."""
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(GOOD)
    (tmp_path / "sub" / "b.html").write_text('<p id="there"></p><a href="../a.html">back</a>')
    return tmp_path


def test_a_good_site(site):
    assert list(check_site.faults(site)) == []


@pytest.mark.parametrize(
    ("html", "fault"),
    [
        ('<a href="missing.html">x</a>', "missing.html does not exist"),
        ('<a href="sub/b.html#nowhere">x</a>', "names no place"),
        ('<a href="https://no host/">x</a>', "not a web address"),
        ('<a href="javascript:x()">x</a>', "unexpected scheme"),
        ('<script src="https://cdn.example.com/x.js"></script>', "loads https://cdn.example.com/x.js"),
        ('<link rel="stylesheet" href="//cdn.example.com/x.css">', "loads //cdn.example.com/x.css"),
        ('<img src="missing.png">', "missing.png does not exist"),
    ],
)
def test_a_planted_fault_is_reported(site, html, fault):
    (site / "c.html").write_text(html)
    (found,) = check_site.faults(site)
    assert found.startswith("c.html: ")
    assert fault in found


def test_a_style_that_loads_a_font_is_reported(site):
    (site / "x.css").write_text(
        '@font-face { src: url("https://fonts.example.com/x.woff2"); } a { background: url(x.png); }'
    )
    assert list(check_site.faults(site)) == ["x.css: loads https://fonts.example.com/x.woff2"]
