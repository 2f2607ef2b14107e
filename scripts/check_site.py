"""Check the links of a built site: each target within it exists, and no page loads anything from elsewhere.

Usage: scripts/check_site.py DIRECTORY. Addresses on the web are not opened; only their syntax is checked.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# (tag, attribute) of an element that a browser loads with the page.
LOADED = {("img", "src"), ("script", "src"), ("iframe", "src"), ("source", "src"), ("link", "href"), ("object", "data")}
LOADED_BY_STYLE = re.compile(r"""(?:@import\s+|url\()\s*['"]?\s*((?:https?:)?//[^'")\s]+)""")
HOST = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,}", re.IGNORECASE)


@dataclass
class Page(HTMLParser):
    """The links and the anchors of one page."""

    links: list[str] = field(default_factory=list)
    loaded: list[str] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        super().__init__()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect what the element links to, loads, and is called."""
        values = {name: value for name, value in attrs if value}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        self.loaded += [values[name] for name in ("src", "href", "data") if (tag, name) in LOADED and name in values]


def read(path: Path) -> Page:
    """A page, parsed."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    return page


def faults(site: Path) -> Iterator[str]:
    """Every broken or foreign link of the site, as `page: what is wrong`."""
    pages = {path.resolve(): read(path) for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        place = path.relative_to(site.resolve())
        for link in page.links:
            if fault := fault_of_link(link, path, pages):
                yield f"{place}: {fault}"
        for address in page.loaded:
            if fault := fault_of_loaded(address, path, pages):
                yield f"{place}: {fault}"
    for path in sorted(site.rglob("*.css")):
        for address in LOADED_BY_STYLE.findall(path.read_text(encoding="utf-8")):
            yield f"{path.relative_to(site)}: loads {address}"


def fault_of_link(link: str, page: Path, pages: dict[Path, Page]) -> str | None:
    """The fault of a link, or None."""
    parts = urlsplit(link)
    if parts.scheme in ("http", "https"):
        return None if HOST.fullmatch(parts.hostname or "") else f"{link} is not a web address"
    if parts.scheme:
        return None if parts.scheme == "mailto" else f"{link} has an unexpected scheme"
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    if not target.is_file():
        return f"{link} does not exist"
    fragment = unquote(parts.fragment)
    if fragment and target in pages and fragment not in pages[target].anchors:
        return f"{link} names no place of that page"
    return None


def fault_of_loaded(address: str, page: Path, pages: dict[Path, Page]) -> str | None:
    """The fault of something loaded with the page, or None."""
    if address.startswith("data:"):
        return None
    if urlsplit(address).netloc:
        return f"loads {address}"
    return fault_of_link(address, page, pages)


def main() -> int:
    """0 if the site has no fault."""
    site = Path(sys.argv[1])
    found = list(faults(site))
    for fault in found:
        sys.stderr.write(f"{fault}\n")
    return int(bool(found))


if __name__ == "__main__":
    sys.exit(main())
