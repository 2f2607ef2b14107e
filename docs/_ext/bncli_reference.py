"""Directives that write parts of pages from the code: `bncli-command`, `bncli-findings` and `bncli-map`."""

from __future__ import annotations

from typing import ClassVar

from docutils import nodes
from reference_text import command_reference, findings_reference, house_map
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from sphinx.util.typing import ExtensionMetadata, OptionSpec


class Command(SphinxDirective):
    """Usage, description and options of the command named as the argument."""

    required_arguments = 1
    final_argument_whitespace = True
    option_spec: ClassVar[OptionSpec] = {}

    def run(self) -> list[nodes.Node]:
        """The command's reference as nodes."""
        return self.parse_text_to_nodes(command_reference(self.arguments[0]))


class Findings(SphinxDirective):
    """Every finding with its severities, threshold, reason and remedy."""

    option_spec: ClassVar[OptionSpec] = {}

    def run(self) -> list[nodes.Node]:
        """The catalogue as nodes."""
        return self.parse_text_to_nodes(findings_reference(), allow_section_headings=True)


class Map(SphinxDirective):
    """The rooms of the package."""

    option_spec: ClassVar[OptionSpec] = {}

    def run(self) -> list[nodes.Node]:
        """The map as nodes."""
        return self.parse_text_to_nodes(house_map())


def setup(app: Sphinx) -> ExtensionMetadata:
    """Register the directives."""
    app.add_directive("bncli-command", Command)
    app.add_directive("bncli-findings", Findings)
    app.add_directive("bncli-map", Map)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
