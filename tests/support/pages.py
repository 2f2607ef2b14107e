"""A page read as a browser would, for tests of what it holds."""

from html.parser import HTMLParser

EMPTY = {"meta", "br", "link", "img", "input", "hr", "wbr"}


class Page(HTMLParser):
    """Every element with its attributes and its text; asserts that elements are closed in the right order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []  # (tag, attributes)
        self.texts: list[tuple[str, str]] = []  # (tag around it, text)
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note the element."""
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Close the element, which must be the one opened last."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note the text."""
        self.texts.append((self._open[-1] if self._open else "", data))

    def named(self, tag: str) -> list[dict[str, str | None]]:
        """The attributes of each element of this name."""
        return [attributes for name, attributes in self.elements if name == tag]

    def text(self, tag: str) -> str:
        """All text directly inside elements of this name."""
        return "".join(text for around, text in self.texts if around == tag)

    @property
    def words(self) -> str:
        """The text that a reader sees."""
        return " ".join(text for around, text in self.texts if around not in ("style", "script"))
