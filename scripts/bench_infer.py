#!/usr/bin/env python3
"""Inference throughput of bncli beside PyTorch, by batch size, from images on the host to logits on the host.

bncli's networks are a checkpoint that ``bncli train`` wrote, the one that ``bncli fold`` made of it, and its ONNX
export in onnxruntime; each is opened as ``bncli bench`` opens it. PyTorch's are the network with BN fused into the
convolutions, eager and compiled, in both memory formats, and its own ONNX export in onnxruntime. The fastest of each
side are compared. How they are interleaved: ``contest.py``. On the CPU. Prints tables, or with ``--json`` one document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

from contest import Contest, ContestError, Worker, add_options, check_torch, tell, torch_worker
from contest_report import Outcome, document, print_tables
from contest_worker import CASES, Case, Work, serve, synthetic_images

TORCH = {
    "fused eager": {"engine": "torch", "compiled": False, "channels_last": False},
    "fused eager channels_last": {"engine": "torch", "compiled": False, "channels_last": True},
    "fused compiled": {"engine": "torch", "compiled": True, "channels_last": False},
    "fused compiled channels_last": {"engine": "torch", "compiled": True, "channels_last": True},
    "fused onnxruntime": {"engine": "onnxruntime", "compiled": False, "channels_last": False},
}
BATCH_SIZES = (1, 32, 256)
# Of the training that makes the checkpoint: the weights do not change the work.
TRAIN_IMAGES = 256
TEST_IMAGES = 64
TRAIN_BATCH = 64


class BncliInference:
    """A network as ``bncli bench`` calls it."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Opens it.

        Args:
            spec: ``path`` of a checkpoint or an exported ``model.onnx``.
        """
        from bncli.jobs.bench import networks
        from bncli.process.configure import configure

        self.path = Path(spec["path"])
        self.target = networks.read_target([self.path])
        configure(self.target.precision)
        start = time.perf_counter()
        self.network = networks.open_network(self.path)
        self.building = time.perf_counter() - start
        self.images = networks.random_images(self.target, 1)

    def facts(self) -> dict[str, Any]:
        from importlib.metadata import version

        from bncli.process.hardware import hardware, versions

        versions = versions()
        if self.network.kind == "onnx":
            versions["onnxruntime"] = version("onnxruntime")
        parameters = _num_parameters(self.path) if self.network.kind == "trained" else None
        return {"parameters": parameters, "versions": versions, "hardware": asdict(hardware())}

    def first(self, batch_size: int) -> Work:
        from bncli.jobs.bench.networks import random_images

        self.images = random_images(self.target, batch_size)
        call = self._calls(1)
        building, self.building = self.building, 0.0
        return Work(building + call.seconds, call.images)

    def turn(self, amount: int) -> Work:
        self.network.call(self.images)  # finds the caches full of the program before it
        return self._calls(amount)

    def _calls(self, amount: int) -> Work:
        start = time.perf_counter()
        for _ in range(amount):
            self.network.call(self.images)
        return Work(time.perf_counter() - start, amount * len(self.images))


def _num_parameters(checkpoint: Path) -> int:
    import jax

    from bncli.checkpoint import load

    return sum(leaf.size for leaf in jax.tree.leaves(load(checkpoint).variables["params"]))


def make_networks(case: Case, folder: Path) -> dict[str, Path]:
    """bncli's variants by name: trained for one epoch on noise, folded, exported."""
    import numpy as np

    folder.mkdir()
    data, trained, folded = folder / "data.npz", folder / "trained", folder / "folded"
    x_train, y_train = synthetic_images(TRAIN_IMAGES, case.image_shape)
    x_test, y_test = synthetic_images(TEST_IMAGES, case.image_shape)
    np.savez(data, x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test)
    settings = ["--model", case.model, "--epochs", "1", "--batch-size", str(TRAIN_BATCH), "--quiet"]
    _bncli("train", "--data", str(data), "--out", str(trained), *settings)
    _bncli("fold", str(trained), str(folded), "--export", "onnx")
    return {"trained": trained, "folded": folded, "folded onnxruntime": folded / "model.onnx"}


def _bncli(*arguments: str) -> None:
    """One command, as a user calls it."""
    done = subprocess.run([sys.executable, "-m", "bncli", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ContestError(f"bncli {arguments[0]} ended with {done.returncode}: {done.stderr.strip()}")


def measure(name: str, options: argparse.Namespace, folder: Path) -> tuple[list[Outcome], dict[str, Any]]:
    """One network at all batch sizes: what came of each, and hardware and versions."""
    case = CASES[name]
    tell(name)
    networks = make_networks(case, folder / name)
    contest = Contest(rounds=options.rounds, seconds=options.seconds)
    with ExitStack() as stack:
        for variant, path in networks.items():
            contest.admit(stack.enter_context(bncli_worker(variant)), {"path": str(path)})
        for number, (variant, settings) in enumerate(TORCH.items()):
            own = folder / name / f"torch-{number}"
            peer = stack.enter_context(torch_worker(variant, "infer", python=options.torch_python, cache=own))
            spec = {"model": case.model, "image_shape": case.image_shape, "onnx": f"{own}.onnx", **settings}
            contest.admit(peer, spec)
        contest.check_parameters()
        outcomes = []
        for size in sorted(options.batch_size or BATCH_SIZES):  # from the smallest on: memory is a peak
            tell(f"  batch {size}")
            outcomes.append(contest.measure(f"{name} batch {size}", size))
        return outcomes, contest.about()


def bncli_worker(variant: str) -> Worker:
    """The process of one of bncli's networks, with the compile cache off."""
    environment = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return Worker(variant, [sys.executable, __file__, "--worker"], is_peer=False, environment=environment)


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:] == ["--worker"]:
        serve(BncliInference)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seconds=0.5)
    sizes = ", ".join(map(str, BATCH_SIZES))
    parser.add_argument("--batch-size", type=int, action="append", metavar="B", help=f"repeatable (default: {sizes})")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    about: dict[str, Any] = {}
    try:
        check_torch(options.torch_python)
        with tempfile.TemporaryDirectory() as folder:
            for name in options.case or CASES:
                found, about = measure(name, options, Path(folder))
                outcomes += found
    except ContestError as error:
        sys.exit(f"error: {error}")
    if options.json:
        print(json.dumps(document(outcomes, about | {"turn_seconds": options.seconds}), indent=2))
    else:
        print_tables(outcomes)


if __name__ == "__main__":
    main()
