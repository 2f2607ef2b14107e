"""The result of ``bncli doctor``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from bncli.cli.render.tables import plain_table
from bncli.cli.render.words import marked
from bncli.process.memory import format_bytes

if TYPE_CHECKING:
    from bncli.data.pixel_cache import DataCache
    from bncli.process.compile_cache import CompileCache
    from bncli.process.hardware import Hardware
    from bncli.selftest import Outcome


@dataclass(frozen=True)
class DoctorReport:
    """The environment and the results of the self-test.

    Attributes:
        versions: version by package, including ``python``.
        hardware: hardware of this process.
        xla_flags: flags in force; "" for none.
        compile_cache: the cache of compiled programs.
        data_cache: the cache of decoded images.
        known_fault: a known fault of this jaxlib; None if there is none.
        checks: the result of each check.
    """

    versions: dict[str, str]
    hardware: Hardware
    xla_flags: str
    compile_cache: CompileCache
    data_cache: DataCache
    known_fault: str | None
    checks: tuple[Outcome, ...]

    @property
    def passed(self) -> bool:
        """True if this jaxlib has no known fault and no check failed."""
        return self.known_fault is None and all(check.passed for check in self.checks)

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        failed = sum(not check.passed for check in self.checks)
        if self.known_fault is not None:
            return self.known_fault
        if failed:
            return f"jaxlib {self.versions['jaxlib']} fails {failed} of {len(self.checks)} checks"
        return f"jaxlib {self.versions['jaxlib']} passes all {len(self.checks)} checks"


def doctor_json(report: DoctorReport) -> dict[str, object]:
    """Return the ``bncli.doctor/1`` document."""
    return {
        "schema": "bncli.doctor/1",
        "passed": report.passed,
        "verdict": report.verdict,
        "known_fault": report.known_fault,
        "checks": [{**asdict(check), "passed": check.passed} for check in report.checks],
        "xla_flags": report.xla_flags,
        "compile_cache": asdict(report.compile_cache),
        "data_cache": asdict(report.data_cache),
        "hardware": {**asdict(report.hardware), "devices": list(report.hardware.devices)},
        "versions": report.versions,
    }


def doctor_text(report: DoctorReport) -> RenderableType:
    """Return versions and hardware, one row per check, and the verdict."""
    colour = "green" if report.passed else "red"
    return Group(_environment(report), _checks(report), Text.from_markup(f"[{colour}]{marked(report.verdict)}[/]"))


def _environment(report: DoctorReport) -> Table:
    hardware, cache = report.hardware, report.compile_cache
    kinds = ", ".join(f"{hardware.devices.count(kind)} × {kind}" for kind in sorted(set(hardware.devices)))
    stored = "not stored between runs" if cache.directory is None else cache.directory
    cannot_write = "" if cache.directory is None or cache.usable else " (not writable)"
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        ("versions", ", ".join(f"{name} {version}" for name, version in report.versions.items())),
        ("hardware", f"{hardware.cpu}, {hardware.cores} cores; {kinds}"),
        ("XLA_FLAGS", report.xla_flags or "none"),
        ("compiled programs", stored + cannot_write),
        ("decoded images", _images(report.data_cache)),
    ):
        table.add_row(f"[bold]{name}[/]", marked(value))
    return table


def _images(cache: DataCache) -> str:
    used = f"{format_bytes(cache.bytes)} of at most {format_bytes(cache.limit)} in {cache.directory}"
    return f"{used}, from {cache.datasets} folder{'' if cache.datasets == 1 else 's'}"


def _checks(report: DoctorReport) -> Table:
    table = plain_table("check", "", "off by", "allowed", "s", words=("",))
    for check in report.checks:
        word = "[green]pass[/]" if check.passed else "[bold red]FAIL[/]"
        name = check.name if check.passed else f"{check.name}: {check.error or check.place}"
        off_by = "–" if check.difference is None else f"{check.difference:.1e}"
        table.add_row(marked(name), word, off_by, f"{check.tolerance:.0e}", f"{check.seconds:.1f}")
    return table
