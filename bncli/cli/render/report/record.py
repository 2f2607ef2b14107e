"""The record of a run: settings, data, versions, hashes, and the fold of a folded checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bncli.cli.render.html.document import facts, section
from bncli.cli.render.html.markup import NOTHING, Html, element
from bncli.cli.render.report.words import value_text
from bncli.cli.render.words import short
from bncli.cli.untrusted import visible

if TYPE_CHECKING:
    from bncli.jobs.report import FoldRecord, NormRecord, RunReport, SettingValue


def settings_section(run: RunReport) -> Html:
    """Return the settings that differ from the defaults, and the others folded up."""
    changed = [setting for setting in run.settings if setting.differs]
    others = [setting for setting in run.settings if not setting.differs]
    shown = _settings_table(changed) if changed else element("p", "All settings have their defaults.", class_="none")
    more = element("details", element("summary", f"{len(others)} settings at their defaults"), _settings_table(others))
    about = element(
        "p", "Settings that differ from the defaults, by the user’s choice or the recipe’s.", class_="about"
    )
    return section("settings", "Settings", about, shown, more)


def _settings_table(settings: Sequence[SettingValue]) -> Html:
    rows = [
        element(
            "tr",
            element("th", element("code", f"--{setting.flag}", class_="option"), scope="row"),
            element("td", visible(value_text(setting.value)), class_="value"),
            element("td", visible(value_text(setting.default)), class_="value default") if setting.differs else None,
        )
        for setting in settings
    ]
    titles = ("setting", "value", "default") if any(setting.differs for setting in settings) else ("setting", "value")
    head = element("tr", *(element("th", title, scope="col") for title in titles))
    return _in_scroll(element("table", element("thead", head), element("tbody", *rows), class_="plain"), "Settings")


def versions_section(run: RunReport) -> Html:
    """Return the versions and hashes that identify the run."""
    data = run.config.dataset
    hashes = [(f"SHA-256 of {name}", digest) for name, digest in run.sha256.items()]
    if run.config.model_sha256:
        hashes.append(("SHA-256 of the model’s code", run.config.model_sha256))
    if data is not None:
        hashes += [("data", f"{data.name}, from {data.source}"), ("SHA-256 of the data", data.sha256)]
    if run.scored is not None:
        hashes.append(("SHA-256 of the predictions", run.scored.mistakes.result.predictions_sha256))
    rows = [
        element("tr", element("th", name, scope="row"), element("td", visible(value), class_="value hash"))
        for name, value in hashes
    ]
    table = element("table", element("tbody", *rows), class_="plain")
    return section(
        "versions",
        "Versions and hashes",
        facts([(visible(name), version) for name, version in sorted(run.config.versions.items())]),
        _in_scroll(table, "Hashes"),
    )


def fold_section(run: RunReport) -> Html:
    """Return the fold of a folded checkpoint."""
    if run.fold is None:
        return NOTHING
    rows = [_norm_row(row) for row in run.fold.norms]
    head = element("tr", *(element("th", title, scope="col") for title in ("BN layer", "", "into, or reason")))
    table = element("table", element("thead", head), element("tbody", *rows), class_="plain")
    return section("fold", "Fold", facts(_fold_facts(run.fold)), _in_scroll(table, "Folded BN layers"))


def _fold_facts(fold: FoldRecord) -> list[tuple[str, str]]:
    before, after = fold.latency
    return [
        ("relative error of a logit", f"{short(fold.max_rel_error)} (allowed {short(fold.tolerance)})"),
        ("same top-1 class", f"{fold.top1_agreement:.2%}"),
        ("proved on", fold.examples),
        ("latency at batch 1", f"{before:.3f} ms before, {after:.3f} ms after"),
    ]


def _norm_row(row: NormRecord) -> Html:
    chip = element("span", "✓ folded" if row.is_folded else "kept", class_=f"chip {'ok' if row.is_folded else 'info'}")
    where = ", ".join(row.into) if row.is_folded else row.reason
    return element(
        "tr",
        element("th", element("span", visible(row.name), class_="name"), scope="row"),
        element("td", chip),
        element("td", visible(where), class_="value"),
    )


def _in_scroll(table: Html, label: str) -> Html:
    return element("div", table, class_="scroll", tabindex=0, role="region", aria_label=label)
