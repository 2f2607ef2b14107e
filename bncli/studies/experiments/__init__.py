"""The experiments, one file each. ``experiments()`` finds every file here: to add an experiment, write one."""

from __future__ import annotations

import pkgutil
from functools import cache
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bncli.studies.experiment import Experiment


@cache
def experiments() -> Mapping[str, Experiment]:
    """Name -> experiment, in the order of the report."""
    modules = (import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__))
    ordered = sorted((module.EXPERIMENT for module in modules), key=lambda experiment: experiment.order)
    return MappingProxyType({experiment.name: experiment for experiment in ordered})
