"""Pages in two languages: `es/PAGE` is the Spanish twin of `PAGE`. Each links to the other and states its language."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.util.typing import ExtensionMetadata

FOLDER = "es/"
# The words of the theme, which has no translation of them.
THEME = {
    "Back to top": "Volver arriba",
    "Home": "Inicio",
    "Next": "Siguiente",
    "On this page": "En esta página",
    "Previous": "Anterior",
    "Search": "Buscar",
    "Skip to content": "Ir al contenido",
    "Made with ": "Hecho con ",
}
SWITCHES = {"es": "Español", "en": "English"}


def twin_of(page: str) -> str:
    """The name that the page has in the other language."""
    return page.removeprefix(FOLDER) if page.startswith(FOLDER) else FOLDER + page


def spanish(text: str) -> str:
    """A text of the theme."""
    return THEME.get(text, text)


def set_language(app: Sphinx, page: str, _template: str, context: dict[str, object], doctree: object) -> None:
    """Mark the page's language, and put a link to its twin above it."""
    if doctree is None:
        return
    if page.startswith(FOLDER):
        context.update(language="es", gettext=spanish, _=spanish)
    twin = twin_of(page)
    if twin in app.env.found_docs:
        other = "es" if twin.startswith(FOLDER) else "en"
        link = app.builder.get_relative_uri(page, twin)
        switch = f'<p class="language"><a href="{link}" lang="{other}" hreflang="{other}">{SWITCHES[other]}</a></p>'
        context["body"] = f"{switch}\n{context['body']}"


def setup(app: Sphinx) -> ExtensionMetadata:
    """Look at each page before its template does."""
    app.connect("html-page-context", set_language)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
