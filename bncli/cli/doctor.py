"""``bncli doctor``."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from bncli.cli import cluster, options
from bncli.errors import CheckFailedError

# Variables of the environments in which JAX detects the processes of a job by itself.
_ENVIRONMENTS = ("SLURM_PROCID", "OMPI_COMM_WORLD_RANK", "TPU_WORKER_ID", "JOB_COMPLETION_INDEX")


def doctor(
    distributed: Annotated[
        bool,
        typer.Option(
            "--distributed",
            help="Check what several processes compute together, too: those of this job, or else two on this machine.",
            rich_help_panel=cluster.PANEL,
        ),
    ] = False,
    coordinator: cluster.Coordinator = None,
    num_processes: cluster.NumProcesses = None,
    process_id: cluster.ProcessId = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Show versions, hardware and caches, and check that the installed jaxlib computes what it should.

    Takes about 15 s. Exits with 3 if a check fails, and says what to install.
    """
    named = cluster.cluster_of(
        distributed=None, coordinator=coordinator, num_processes=num_processes, process_id=process_id
    )
    if named is None and distributed and any(name in os.environ for name in _ENVIRONMENTS):
        named = cluster.cluster_of(distributed="auto", coordinator=None, num_processes=None, process_id=None)
    if named is not None:
        with cluster.as_member(named, command="doctor", debug=debug):
            _doctor(with_collectives=True, as_json=as_json, quiet=quiet)
    elif distributed:
        _doctor_in_two(as_json=as_json, quiet=quiet)
    else:
        _doctor(with_collectives=False, as_json=as_json, quiet=quiet)


def _doctor_in_two(*, as_json: bool, quiet: bool) -> None:
    """Run the command in two processes of this machine."""
    from bncli.process import launcher

    words = ["doctor", "--distributed", *["--json"] * as_json, *["--quiet"] * quiet]
    with tempfile.TemporaryDirectory() as logs:
        code = launcher.launch(words, processes=2, logs=Path(logs), on_end=lambda ended: None)
    if code:
        raise typer.Exit(code)


def _doctor(*, with_collectives: bool, as_json: bool, quiet: bool) -> None:
    from bncli.cli import display, render
    from bncli.process import distributed, jaxlib
    from bncli.process.compile_cache import compile_cache
    from bncli.process.configure import configure
    from bncli.process.hardware import hardware, versions

    configure(allow_bad_jaxlib=True)
    from bncli import selftest
    from bncli.data.pixel_cache import data_cache

    display.note("checking jaxlib …", quiet=quiet)
    checks = selftest.examine() if distributed.is_first() else ()
    distributed.barrier()
    report = render.DoctorReport(
        versions=versions(),
        hardware=hardware(),
        xla_flags=os.environ.get("XLA_FLAGS", ""),
        compile_cache=compile_cache(),
        data_cache=data_cache(),
        known_fault=jaxlib.known_fault(),
        checks=(*checks, *(selftest.examine_collectives() if with_collectives else ())),
    )
    render.emit(report, as_json=as_json, to_json=render.doctor_json, to_text=render.doctor_text)
    if not report.passed:
        raise CheckFailedError(report.verdict, remedy=jaxlib.OTHER_JAX)
