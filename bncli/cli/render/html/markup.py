"""HTML that is escaped by construction: a ``str`` is text, and becomes markup only as part of an element."""

from __future__ import annotations

import html

from bncli.cli.untrusted import inert


class Html(str):
    """Markup. A plain ``str`` is text and is escaped when it becomes part of an element."""

    __slots__ = ()


NOTHING = Html("")
_EMPTY = frozenset({"br", "hr", "img", "input", "link", "meta", "wbr"})


def element(tag: str, *children: str | None, **attributes: str | float | bool | None) -> Html:
    """Return ``<tag attributes>children</tag>``.

    Args:
        tag: its name.
        children: ``Html`` is inserted as it is, other text is escaped, None is left out.
        attributes: ``class_`` means "class", ``aria_label`` "aria-label". True gives an attribute without a value; None
            and False are left out.
    """
    opening = f"<{tag}{''.join(_attribute(name, value) for name, value in attributes.items())}>"
    return Html(opening if tag in _EMPTY else f"{opening}{join(*children)}</{tag}>")


def join(*children: str | None) -> Html:
    """Return the children one after the other."""
    return Html("".join(child if isinstance(child, Html) else _text(child) for child in children if child))


def _text(text: str) -> str:
    """Return the text as markup; control characters, which HTML forbids or browsers obey, are spelled out."""
    return html.escape(inert(text))


def _attribute(name: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    word = name.rstrip("_").replace("_", "-")
    return f" {word}" if value is True else f' {word}="{_text(str(value))}"'
