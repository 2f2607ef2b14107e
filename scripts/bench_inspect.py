#!/usr/bin/env python3
"""The cost of ``bncli inspect-stats`` from start to end, on a safetensors file as large as ResNet-50's.

Each time in a process of its own; beside it, in turn, one that imports NumPy and one that imports JAX, for what
starting takes on the machine.
Writes ``scripts/results/bench_inspect.json`` and prints a table, or with ``--json`` that document.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RESULTS = Path(__file__).parent / "results" / "bench_inspect.json"
STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # He et al. 2015, arXiv 1512.03385, table 1: 50 layers


def make_arrays() -> dict[str, np.ndarray]:
    """Random weights by the names that PyTorch's ResNet-50 has."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}

    def conv_bn(conv: str, bn: str, shape: tuple[int, ...]) -> None:
        arrays[f"{conv}.weight"] = rng.normal(size=shape).astype(np.float32)
        for name in ("weight", "bias", "running_mean"):
            arrays[f"{bn}.{name}"] = rng.normal(size=shape[0]).astype(np.float32)
        arrays[f"{bn}.running_var"] = np.exp(rng.normal(size=shape[0])).astype(np.float32)
        arrays[f"{bn}.num_batches_tracked"] = np.array(500_000, np.int64)

    conv_bn("conv1", "bn1", (64, 3, 7, 7))
    before = 64
    for stage, (width, blocks) in enumerate(STAGES, start=1):
        for block in range(blocks):
            at = f"layer{stage}.{block}"
            conv_bn(f"{at}.conv1", f"{at}.bn1", (width, before, 1, 1))
            conv_bn(f"{at}.conv2", f"{at}.bn2", (width, width, 3, 3))
            conv_bn(f"{at}.conv3", f"{at}.bn3", (4 * width, width, 1, 1))
            if not block:
                conv_bn(f"{at}.downsample.0", f"{at}.downsample.1", (4 * width, before, 1, 1))
            before = 4 * width
    arrays["fc.weight"], arrays["fc.bias"] = np.ones((1000, before), np.float32), np.ones(1000, np.float32)
    return arrays


def seconds(*command: str) -> float:
    """The wall time of one process, which must end well."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *command], check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    """Rounds of all commands in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", action="store_true", help="print the document")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "resnet50.safetensors"
        save_file(make_arrays(), path)
        commands = {
            "bncli inspect-stats": ("-m", "bncli", "inspect-stats", str(path)),
            "import numpy": ("-c", "import numpy"),
            "import jax": ("-c", "import jax"),
        }
        times: dict[str, list[float]] = {name: [] for name in commands}
        for _ in range(options.rounds):
            for name, command in commands.items():
                times[name].append(seconds(*command))
        document = {
            "schema": "bncli.bench-inspect/1",
            "file_bytes": path.stat().st_size,
            "rounds": options.rounds,
            "seconds": {
                name: {"median": statistics.median(values), "min": min(values), "max": max(values)}
                for name, values in times.items()
            },
            "versions": {"python": platform.python_version()} | {name: version(name) for name in ("bncli", "numpy")},
            "cores": os.cpu_count(),
        }
    RESULTS.write_text(json.dumps(document, indent=2) + "\n")
    if options.json:
        print(json.dumps(document))
        return
    for name, row in document["seconds"].items():
        print(f"{name:22}{row['median']:.2f} s ({row['min']:.2f} to {row['max']:.2f}, n = {options.rounds})")


if __name__ == "__main__":
    main()
