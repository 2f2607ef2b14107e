"""A page that loads nothing: its style, script, plots and images are inside.

A Content-Security-Policy admits this style and this script, by their hashes, and images from the page itself: whatever
a layer or a class is called, it cannot run.
"""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.resources import files

import bncli
from bncli.cli.render.html.markup import Html, element
from bncli.cli.untrusted import visible

_OPTION = re.compile(r"(--[a-z][a-z-]+)")


def document(title: str, *content: Html, style: str, script: str = "", images: bool = False) -> str:
    """Return the whole page.

    Args:
        title: its title, a text from anywhere.
        content: the children of the body.
        style: CSS.
        script: JavaScript at the end of the body; "" for none.
        images: True to admit images from the page itself.
    """
    scripts = [element("script", Html(script))] if script else []
    body = element("body", *content, *scripts)
    head = _head(title, _policy(style, script, images=images), style)
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def asset(name: str, package: str = __package__) -> str:
    """Return the text of a file that lies beside the modules of a package."""
    return files(package).joinpath(name).read_text(encoding="utf-8")


def section(anchor: str, title: str, *children: str) -> Html:
    """Return a section of the page under its heading."""
    return element("section", element("h2", title), *children, id=anchor)


def facts(terms: list[tuple[str, str]]) -> Html:
    """Return names with their values, side by side as far as there is room."""
    rows = [element("div", element("dt", name), element("dd", visible(value))) for name, value in terms]
    return element("dl", *rows, class_="facts")


def with_options(text: str) -> list[str]:
    """Return the text with the options of commands as code, which does not break after their hyphens."""
    parts = _OPTION.split(visible(text))
    return [element("code", part, class_="option") if _OPTION.fullmatch(part) else part for part in parts]


def _policy(style: str, script: str, *, images: bool) -> str:
    scripts = _hash(script) if script else "'none'"
    pictures = "img-src data:; " if images else ""
    return f"default-src 'none'; style-src {_hash(style)}; script-src {scripts}; {pictures}base-uri 'none'"


def _head(title: str, policy: str, style: str) -> Html:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="generator", content=f"bncli {bncli.__version__}"),
        element("title", visible(title)),
        element("style", Html(style)),
    )


def _hash(text: str) -> str:
    """Return the hash by which a Content-Security-Policy admits an inline text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
