"""What ``bncli doctor`` shows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from bncli.cli.render.base import plain_table

if TYPE_CHECKING:
    from bncli.process.compile_cache import CompileCache
    from bncli.process.hardware import Hardware
    from bncli.selftest import Outcome


@dataclass(frozen=True)
class DoctorReport:
    """What was found.

    Attributes:
        versions: by package, ``python`` among them.
        hardware: of this process.
        xla_flags: in force; "" for none.
        compile_cache: where programs are kept.
        known_fault: what is known to be wrong with this jaxlib; None where nothing is.
        checks: what each came to.
    """

    versions: dict[str, str]
    hardware: Hardware
    xla_flags: str
    compile_cache: CompileCache
    known_fault: str | None
    checks: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is known or was found to be wrong."""
        return self.known_fault is None and all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """One sentence."""
        failed = sum(not check.passed for check in self.checks)
        if self.known_fault is not None:
            return self.known_fault
        if failed:
            return f"jaxlib {self.versions['jaxlib']} fails {failed} of {len(self.checks)} checks"
        return f"jaxlib {self.versions['jaxlib']} passes all {len(self.checks)} checks"


def doctor_json(report: DoctorReport) -> dict[str, Any]:
    """The ``bncli.doctor/1`` document."""
    return {
        "schema": "bncli.doctor/1",
        "passed": report.passed,
        "verdict": report.verdict,
        "known_fault": report.known_fault,
        "checks": [{**asdict(check), "passed": check.passed} for check in report.checks],
        "xla_flags": report.xla_flags,
        "compile_cache": asdict(report.compile_cache),
        "hardware": {**asdict(report.hardware), "devices": list(report.hardware.devices)},
        "versions": report.versions,
    }


def doctor_text(report: DoctorReport) -> RenderableType:
    """Versions and hardware, a row per check, the verdict."""
    colour = "green" if report.passed else "red"
    return Group(_environment(report), _checks(report), Text.from_markup(f"[{colour}]{escape(report.verdict)}[/]"))


def _environment(report: DoctorReport) -> Table:
    hardware, cache = report.hardware, report.compile_cache
    kinds = ", ".join(f"{hardware.devices.count(kind)} × {kind}" for kind in sorted(set(hardware.devices)))
    kept = "not kept between runs" if cache.directory is None else cache.directory
    cannot_write = "" if cache.directory is None or cache.usable else " (cannot be written to)"
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("hardware", f"{hardware.cpu}, {hardware.cores} cores; {kinds}"),
        ("XLA_FLAGS", report.xla_flags or "none"),
        ("compiled programs", kept + cannot_write),
    ):
        table.add_row(f"[bold]{name}[/]", escape(value))
    return table


def _checks(report: DoctorReport) -> Table:
    table = plain_table("check", "", "off by", "allowed", "s", words=("",))
    for check in report.checks:
        word = "[green]pass[/]" if check.passed else "[bold red]FAIL[/]"
        name = check.name if check.passed else f"{check.name}: {check.error or check.place}"
        off_by = "–" if check.difference is None else f"{check.difference:.1e}"
        table.add_row(escape(name), word, off_by, f"{check.tolerance:.0e}", f"{check.seconds:.1f}")
    return table
