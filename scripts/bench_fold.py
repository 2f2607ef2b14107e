#!/usr/bin/env python3
"""The cost of folding: ResNets at full width, 224×224 images, each run in a process of its own.

Only ``fold`` is measured: tracing, planning, the new weights; not the verification, which is two forward passes a
batch. Writes ``scripts/results/bench_fold.json`` and prints a table, or with ``--json`` that document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import flax.linen as nn

RESULTS = Path(__file__).parent / "results" / "bench_fold.json"
# depth -> (block, blocks in each stage): He et al. 2015, arXiv 1512.03385, table 1.
DEPTHS = {
    18: ("ResNetBlock", (2, 2, 2, 2)),
    34: ("ResNetBlock", (3, 4, 6, 3)),
    50: ("BottleneckBlock", (3, 4, 6, 3)),
    101: ("BottleneckBlock", (3, 4, 23, 3)),
    152: ("BottleneckBlock", (3, 8, 36, 3)),
}
PACKAGES = ("jax", "jaxlib", "flax", "numpy")


def measure(depth: int) -> dict[str, Any]:
    """One fold in this process: seconds, CPU seconds, peak memory [MiB], BN layers."""
    import jax
    import numpy as np

    from bncli.folding import fold

    model = build(depth)
    x = jax.ShapeDtypeStruct((1, 224, 224, 3), np.float32)
    variables = random_variables(jax.eval_shape(lambda: model.init(jax.random.key(0), np.zeros(x.shape), train=False)))
    before, cpu, start = peak_memory(), time.process_time(), time.perf_counter()
    folded = fold(lambda v, x: model.apply(v, x, train=False), variables, x, verify=False)
    jax.block_until_ready(folded.variables)
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "peak_mib": peak_memory(),
        "added_mib": peak_memory() - before,
        "folded": folded.report.folded,
        "kept": folded.report.kept,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(variables["params"])),
    }


def build(depth: int) -> nn.Module:
    """The network of that depth for 1,000 classes."""
    import flax.linen as nn

    from bncli.models import resnet

    block, stage_sizes = DEPTHS[depth]
    return resnet.ResNet(
        num_classes=1000,
        stage_sizes=stage_sizes,
        features=64,
        block=getattr(resnet, block),
        small_images=False,
        norm=nn.BatchNorm,
        dropout=0.0,
        kernel_init=nn.initializers.he_normal(),
    )


def random_variables(shapes: dict[str, Any]) -> dict[str, Any]:
    """Arrays as large as a trained network's; their values do not change the work."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.random(leaf.shape, np.float32)), shapes)


def peak_memory() -> float:
    """The most this process has held so far, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def benchmark(runs: int) -> dict[str, Any]:
    """Every depth, ``runs`` times, one process after the other."""
    rows = []
    for depth in DEPTHS:
        found = [measured_apart(depth) for _ in range(runs)]
        rows.append({"depth": depth, **{key: statistics.median(one[key] for one in found) for key in found[0]}})
        rows[-1]["all_seconds"] = [one["seconds"] for one in found]
        rows[-1]["milliseconds_per_bn"] = 1e3 * rows[-1]["seconds"] / rows[-1]["folded"]
    return {
        "schema": "bncli.bench_fold/1",
        "command": " ".join(["scripts/bench_fold.py", *sys.argv[1:]]),
        "n": runs,
        "statistic": "median",
        "machine": machine(),
        "rows": rows,
    }


def measured_apart(depth: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "--one", str(depth)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def machine() -> dict[str, Any]:
    """Hardware and versions of the measurement."""
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "load_before": os.getloadavg()[0],
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
    }


def processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def table(document: dict[str, Any]) -> str:
    """The figures for people."""
    about = document["machine"]
    lines = [
        f"{about['processor']}, {about['cores']} cores, Python {about['python']}, "
        + ", ".join(f"{package} {about[package]}" for package in PACKAGES),
        f"median of {document['n']} runs, each in a new process",
        "",
        "network     parameters  BN folded  seconds  CPU s  ms per BN  memory added  memory in all",
    ]
    for row in document["rows"]:
        lines.append(
            f"ResNet-{row['depth']:<4} {row['parameters'] / 1e6:8.1f} M {row['folded']:>6} of"
            f" {row['folded'] + row['kept']:<3} {row['seconds']:7.2f} {row['cpu_seconds']:6.2f}"
            f" {row['milliseconds_per_bn']:10.1f} {row['added_mib']:9.0f} MiB {row['peak_mib']:10.0f} MiB"
        )
    return "\n".join(lines)


def main() -> None:
    """Measures and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=3, help="of each network (default: 3)")
    parser.add_argument("--json", action="store_true", help="print the document, not the table")
    parser.add_argument("--one", type=int, choices=DEPTHS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        sys.stdout.write(json.dumps(measure(options.one)))
        return
    document = benchmark(options.runs)
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.stdout.write((json.dumps(document, indent=2) if options.json else table(document)) + "\n")


if __name__ == "__main__":
    main()
