#!/usr/bin/env python3
"""Folds of networks in the idiom of each framework, and of those that frameworks publish; each in its own process.

Statistics are random, of the size of each layer's inputs. Each network is computed four times on the same images: in
float32 by its own framework, in float32 by the folded network, and both again in float64 from the same numbers, where
the network is folded anew. In float64 the two must be equal up to its rounding: what differs in float32 is then the
rounding of float32, and not the fold. Errors are relative to the largest output. Writes
``scripts/results/frameworks.json`` and prints a table, or with ``--json`` that document.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import jax
    import numpy as np
    from zoo.subject import Subject

    from bncli.folding import Folded
    from bncli.folding.trace.graph import Graph

sys.path.insert(0, str(Path(__file__).parent))
RESULTS = Path(__file__).parent / "results" / "frameworks.json"
FRAMEWORKS = ("linen", "nnx", "equinox", "haiku", "keras")
PACKAGES = ("jax", "flax", "equinox", "dm-haiku", "keras", "onnxruntime", "numpy")
LIMIT = 1e-5  # the largest error of a fold in float32, unless the original network rounds by more itself:
ROUNDING = 1.5  # then the folded network may be this many times as far from float64 as the original is
LIMIT_FLOAT64 = 1e-12  # the largest error of the same fold in float64, for every network


def measure(framework: str, name: str) -> dict[str, Any]:
    """One network in this process."""
    import jax

    subject = networks(framework)[name]()
    start = time.perf_counter()
    folded = subject.folded()
    seconds = time.perf_counter() - start
    with jax.default_matmul_precision("highest"):
        return {
            **rows_of(folded, subject),
            **errors(folded, subject),
            **exports(folded, subject),
            "module": has_module(folded),
            "fold_seconds": round(seconds, 2),
        }


def networks(framework: str) -> dict[str, Any]:
    """Name -> a function that builds the network."""
    found: dict[str, Any] = importlib.import_module(f"zoo.{framework}_nets").NETWORKS
    return found


def rows_of(folded: Folded, subject: Subject) -> dict[str, Any]:
    """The counts of the report, and True if they are as they must be: a row for each BN, and the right ones kept."""
    rows = folded.report.norms
    kept = sorted(row.name for row in rows if row.status == "kept")
    verification = folded.report.verification
    return {
        "norms": subject.norms,
        "rows": len(rows),
        "folded": sum(row.status == "folded" for row in rows),
        "kept": kept,
        "as_expected": len(rows) == len({row.name for row in rows}) == subject.norms and kept == sorted(subject.kept),
        "proof": None if verification is None else verification.status,
        "proof_error": None if verification is None else verification.max_rel_error,
    }


def errors(folded: Folded, subject: Subject) -> dict[str, float]:
    """The largest differences of the outputs relative to the largest output."""
    import jax
    import numpy as np

    exact, exact_folded = in_float64(folded, subject)
    if not 0 < np.abs(exact).max() < np.inf:
        raise ValueError("the outputs are all zero, or not finite: they show nothing")
    original, ours = np.asarray(jax.jit(subject.call)(subject.example)), np.asarray(folded(subject.example))

    def error(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.abs(np.asarray(a, np.float64) - b).max() / np.abs(exact).max())

    return {
        "error": error(original, ours),
        "error_original_float64": error(original, exact),
        "error_folded_float64": error(ours, exact),
        "error_float64": error(exact_folded, exact),
        "spread": float(np.abs(exact - exact[:1]).max() / np.abs(exact).max()),
    }


def in_float64(folded: Folded, subject: Subject) -> tuple[np.ndarray, np.ndarray]:
    """(outputs of the original network, outputs of the network folded anew), in float64 throughout.

    Each operation of the original is computed in float64, with the same float32 numbers.
    """
    import jax
    import numpy as np

    from bncli.folding import fold
    from bncli.folding.folded import flatten
    from bncli.folding.rewrite.program import Program, run

    graphs = {size: wide_trace(folded, subject, size) for size in (len(subject.example), len(subject.example) + 1)}

    def apply_fn(variables: Any, x: jax.Array) -> jax.Array:
        graph = graphs[len(x)]
        program = Program(steps=tuple(node.index for node in graph.live()))
        outputs: jax.Array = run(program, graph, dict(flatten(variables)), x)
        return outputs

    with jax.enable_x64(True):
        variables, x = jax.tree.map(widened, variables_of(subject)), widened(subject.example)
        again = fold(apply_fn, variables, x, verify=False)
        same = [(row.name, row.status) for row in again.report.norms] == [
            (row.name, row.status) for row in folded.report.norms
        ]
        if not same:
            raise ValueError("in float64 other layers are folded")
        exact, ours = np.asarray(apply_fn(variables, x)), np.asarray(again(x))
    if exact.dtype != np.float64 or ours.dtype != np.float64:
        raise TypeError(f"the outputs are {exact.dtype} and {ours.dtype}")
    return exact, ours


def wide_trace(folded: Folded, subject: Subject, size: int) -> Graph:
    """The trace of the original network at a batch size, with float64 wherever it has float32."""
    import jax
    import numpy as np

    from bncli.folding.trace.graph import trace

    shape = (size, *subject.example.shape[1:])
    graph = trace(folded.original, folded.shapes, jax.ShapeDtypeStruct(shape, np.float32))

    def wide(value: Any) -> Any:
        is_dtype = isinstance(value, np.dtype) or value is np.float32
        return np.dtype(np.float64) if is_dtype and np.dtype(value) == np.float32 else value

    nodes = tuple(
        replace(node, params={key: wide(value) for key, value in node.params.items()}) for node in graph.nodes
    )
    with jax.enable_x64(True):
        return replace(graph, nodes=nodes, constants={key: widened(array) for key, array in graph.constants.items()})


def widened(array: Any) -> Any:
    """The array in float64 if it is in float32."""
    import jax
    import numpy as np

    return jax.numpy.asarray(array, np.float64) if array.dtype == np.float32 else array


def variables_of(subject: Subject) -> dict[str, Any]:
    """The arrays of the network by name, as the fold reads them."""
    from bncli.frameworks.adapt import adapted, bound, framework_of

    framework = framework_of(subject.network)
    assert framework is not None
    given = bound(framework, "fold", "example", (*subject.arrays, subject.example), subject.named)
    variables: dict[str, Any] = adapted(subject.network, framework, given).variables
    return variables


def exports(folded: Folded, subject: Subject) -> dict[str, Any]:
    """Errors of the network as ONNX by onnxruntime and as StableHLO, both of any batch size, against the original."""
    import jax
    import numpy as np
    import onnxruntime

    from bncli.folding.export import stablehlo
    from bncli.folding.export.onnx import to_onnx

    (size,) = jax.export.symbolic_shape("b")
    x = subject.example
    example = jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)
    original = np.asarray(jax.jit(subject.call)(x))
    model = to_onnx(folded.apply, folded.variables, example)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    by_onnx = session.run(None, {model.graph.input[0].name: x})[0]
    program = jax.export.deserialize(stablehlo.lower(folded.apply, folded.variables, example).serialize())
    by_stablehlo = np.asarray(program.call(folded.variables, x))
    largest = np.abs(original).max()
    return {
        "onnx_error": float(np.abs(by_onnx - original).max() / largest),
        "onnx_norms": sum(node.op_type == "BatchNormalization" for node in model.graph.node),
        "stablehlo_error": float(np.abs(by_stablehlo - original).max() / largest),
    }


def has_module(folded: Folded) -> bool | str:
    """True if the user's own module comes back without BN, which is compared; else the reason."""
    from bncli.errors import FoldError

    try:
        return folded.module is not None
    except FoldError as error:
        return str(error)


def measured_apart(framework: str, name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", framework, name]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def benchmark(only: str, missing: bool) -> list[str]:
    """Measure every network whose name has the word in it, one process after the other, and keep each row at once.

    Returns:
        The networks whose process failed.
    """
    done = {row["network"] for row in recorded()["rows"]} if missing and RESULTS.is_file() else set()
    failed = []
    for framework in FRAMEWORKS:
        for name in networks(framework):
            if only in name and name not in done:
                try:
                    row = {"framework": framework, "network": name, **measured_apart(framework, name)}
                except subprocess.CalledProcessError:
                    failed.append(name)
                    continue
                sys.stderr.write(f"{line(row)}\n")
                keep(row)
    return failed


def keep(row: dict[str, Any]) -> None:
    """Put the row into the document, in the place of an older one."""
    names = [name for framework in FRAMEWORKS for name in networks(framework)]
    before = recorded()["rows"] if RESULTS.is_file() else []
    rows = [*(old for old in before if old["network"] != row["network"] and old["network"] in names), row]
    document = {
        "schema": "bncli.frameworks/1",
        "command": "scripts/bench_frameworks.py",
        "limit": LIMIT,
        "limit_float64": LIMIT_FLOAT64,
        "versions": {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}},
        "rows": sorted(rows, key=lambda row: names.index(row["network"])),
    }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def recorded() -> dict[str, Any]:
    """The document of the last measurements."""
    document: dict[str, Any] = json.loads(RESULTS.read_text(encoding="utf-8"))
    return document


def table(document: dict[str, Any]) -> str:
    """The figures for people."""
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    columns = ("float32", "original", "folded", "float64", "ONNX", "StableHLO")
    head = f"{'network':<32}  BN  folded  kept   {'  '.join(f'{name:<8}' for name in columns)}"
    rows = [line(row) for row in document["rows"]]
    return "\n".join([versions, "", head, *rows])


def line(row: dict[str, Any]) -> str:
    floats = ("error", "error_original_float64", "error_folded_float64", "error_float64")
    numbers = (*floats, "onnx_error", "stablehlo_error")
    shown = "  ".join(f"{row[number]:8.1e}" for number in numbers)
    mark = "" if row["as_expected"] and is_exact(row) else "  <- not as expected"
    return f"{row['network']:<32} {row['norms']:>3} {row['folded']:>6} {len(row['kept']):>6}  {shown}{mark}"


def markdown(document: dict[str, Any]) -> str:
    """The table of the guide, with the command and the versions."""
    names = "network BN folded kept fold original folded_network in_float64 passes_by ONNX StableHLO module"
    head = f"| {' | '.join(names.split()).replace('_', ' ')} |"
    versions = ", ".join(f"{name} {number}" for name, number in document["versions"].items())
    source = f"`{document['command']}`, with {versions}."
    return "\n".join([head, "|---|" + "---:|" * 11, *map(_markdown_row, document["rows"]), "", source])


def _markdown_row(row: dict[str, Any]) -> str:
    errors = ("error", "error_original_float64", "error_folded_float64", "error_float64")
    rule = "≤ 1e-5" if row["error"] <= LIMIT else f"≤ {ROUNDING:g} × original"
    cells = (
        *(row["network"], row["norms"], row["folded"], len(row["kept"])),
        *(f"{row[name]:.1e}" for name in errors),
        rule,
        *(f"{row[name]:.1e}" for name in ("onnx_error", "stablehlo_error")),
        "back" if row["module"] is True else "–",
    )
    return f"| {' | '.join(map(str, cells))} |"


def is_exact(row: dict[str, Any]) -> bool:
    """True if the fold is right in float64, and in float32 differs by its rounding only.

    In float32 it is within the limit, or what exceeds the limit is the rounding of the original network too.
    """
    if row["error_float64"] > LIMIT_FLOAT64:
        return False
    rounding = max(LIMIT, ROUNDING * row["error_original_float64"])
    return row["error"] <= LIMIT or row["error_folded_float64"] <= rounding


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print the document, not the table")
    parser.add_argument("--only", default="", metavar="WORD", help="measure the networks with this word in their name")
    parser.add_argument("--missing", action="store_true", help="measure only the networks that have no row yet")
    parser.add_argument("--markdown", action="store_true", help="print the table of the guide from the last results")
    parser.add_argument("--one", nargs=2, metavar=("FRAMEWORK", "NETWORK"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    os.environ.setdefault("KERAS_BACKEND", "jax")
    if options.one:
        sys.stdout.write(json.dumps(measure(*options.one)))
        return
    if options.markdown:
        sys.stdout.write(markdown(recorded()) + "\n")
        return
    failed = benchmark(options.only, options.missing)
    sys.stdout.write((json.dumps(recorded(), indent=2) if options.json else table(recorded())) + "\n")
    if failed:
        sys.exit(f"not measured: {', '.join(failed)}")


if __name__ == "__main__":
    main()
