#!/usr/bin/env python3
"""The reading of image folders: the start of a command, streamed beside in-memory training, and decoding.

::

    start      seconds and memory until a folder of --files small images is open, cold and warm, kept and streamed
    training   images/s of `bncli train` on FOLDER in memory and streamed, in turn, and the processor time of each image
    decoding   images/s of one worker process on FOLDER, beside PyTorch's DataLoader if --torch-python names a Python

Each part runs in processes of its own, with a cache of its own. Both loaders read the files of FOLDER/train in random
order, and make uint8 batches of 256. Prints a JSON document, ``bncli.bench-data/2``. Processor time is of all
processes; where the machine has other work, it says more than images/s.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
from PIL import Image

BATCH = 256
OPEN = """
import json, resource, sys, time
start = time.perf_counter()
from bncli.data import ImageOptions, load_dataset
dataset = load_dataset(sys.argv[1], images=ImageOptions(stream=sys.argv[2] == "streamed"))
seconds = time.perf_counter() - start
rss = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"seconds": seconds, "processor_seconds": time.process_time(), "max_rss_mib": rss}))
"""
# What both readers begin with. The processor time is that of the process and its worker, from the first batch on: their
# start would take longer than the reading.
PROCESSOR_SECONDS = """
import multiprocessing, os

def processor_seconds():
    ticks = 0
    for process in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
        with open(f"/proc/{process}/stat") as file:
            ticks += sum(map(int, file.read().rpartition(")")[2].split()[11:13]))
    return ticks / os.sysconf("SC_CLK_TCK")
"""
# Each prints (images/s, processor seconds an image) of its one worker.
DECODE = (
    PROCESSOR_SECONDS
    + """
import json, sys, time
from pathlib import Path
from bncli.data import ImageOptions
from bncli.data.feed import TrainingBatches, TrainingFeed
from bncli.data.folder import open_image_folder
if __name__ == "__main__":
    train = open_image_folder(Path(sys.argv[1]), ImageOptions(stream=True)).read().train
    batches = TrainingBatches(train.images.source, train.images.rows, 0, 256, 0)
    feed, steps = TrainingFeed(batches, workers=1), int(sys.argv[2])
    feed.images(0)
    start, used = time.perf_counter(), processor_seconds()
    for step in range(1, steps + 1):
        feed.images(step)
    seconds, used = time.perf_counter() - start, processor_seconds() - used
    print(json.dumps([steps * 256 / seconds, used / (steps * 256)]))
    feed.close()
"""
)
DECODE_BY_TORCH = (
    PROCESSOR_SECONDS
    + """
import json, sys, time
import numpy as np
import torch
from pathlib import Path
from PIL import Image

class Files(torch.utils.data.Dataset):
    def __init__(self, root):
        self.files = sorted(path for path in (Path(root) / "train").rglob("*") if path.is_file())
    def __len__(self):
        return len(self.files)
    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))

if __name__ == "__main__":
    files, steps = Files(sys.argv[1]), int(sys.argv[2])
    sampler = torch.utils.data.RandomSampler(files, num_samples=256 * (steps + 10))
    loader = iter(torch.utils.data.DataLoader(files, batch_size=256, sampler=sampler, num_workers=1))
    next(loader)
    start, used = time.perf_counter(), processor_seconds()
    for _ in range(steps):
        next(loader)
    seconds, used = time.perf_counter() - start, processor_seconds() - used
    print(json.dumps([steps * 256 / seconds, used / (steps * 256)]))
"""
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, nargs="?", help="an image folder, such as CIFAR-10 as JPEGs")
    parser.add_argument("--files", type=int, default=200_000, help="small images of the start; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3, help="of the training and the decoding")
    parser.add_argument("--steps", type=int, default=40, help="batches of 256 of the decoding; 0 leaves it out")
    parser.add_argument("--epochs", type=int, default=2, help="of the training; 0 leaves it out")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--torch-python", type=Path, help="a Python with torch")
    parser.add_argument("--json", type=Path, help="write the document there")
    arguments = parser.parse_args()
    from bncli.process.hardware import hardware, versions

    document: dict[str, object] = {
        "schema": "bncli.bench-data/2",
        "versions": versions(),
        "hardware": asdict(hardware()),
    }
    if arguments.files:
        document["start"] = list(starts(arguments.files))
    if arguments.folder is not None:
        document["files"] = sum(path.is_file() for path in (arguments.folder / "train").rglob("*"))
        if arguments.epochs:
            document["training"] = training(arguments)
        if arguments.steps:
            document["decoding"] = decoding(arguments)
    text = json.dumps(document, indent=2) + "\n"
    print(text, end="")
    if arguments.json:
        arguments.json.write_text(text)


def starts(files: int) -> Iterator[dict[str, object]]:
    """The start on a folder of this many files, which is made for it."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "images"
        write_images(root, files)
        for way in ("kept", "streamed"):
            cache = Path(place) / f"cache-{way}"
            for state in ("cold", "warm", "warm", "warm"):
                yield {"files": files, "way": way, "cache": state, **ask(OPEN, [root, way], cache)}


def write_images(root: Path, files: int) -> None:
    """Small JPEGs in ten classes, of a hundred different contents."""
    rng = np.random.default_rng(0)
    contents = []
    for number in range(100):
        path = root / f"{number}.jpg"
        root.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(path)
        contents.append(path.read_bytes())
        path.unlink()
    for label in range(10):
        folder = root / "train" / f"class{label}"
        folder.mkdir(parents=True)
        for number in range(files // 10):
            (folder / f"{number:06}.jpg").write_bytes(contents[(number + label) % 100])
    time.sleep(0.1)  # files as young as a tick of the clock are not remembered


def training(arguments: argparse.Namespace) -> dict[str, object]:
    """Images/s and processor time of both ways in turn, and the medians of the ratios."""
    rates: dict[str, list[float]] = {"memory": [], "streamed": []}
    seconds: dict[str, list[float]] = {way: [] for way in rates}
    with tempfile.TemporaryDirectory() as place:
        for way in rates:  # the caches of images and programs are filled
            trained(arguments, Path(place), way)
        for number in range(arguments.rounds):
            for way in rates if number % 2 == 0 else reversed(rates):
                before = processor_seconds()
                rates[way].append(trained(arguments, Path(place), way))
                seconds[way].append(processor_seconds() - before)
    return {
        "model": arguments.model,
        "workers": arguments.workers,
        "epochs": arguments.epochs,
        "images_per_second": rates,
        "ratio": ratio(rates["streamed"], rates["memory"]),
        "processor_seconds": seconds,
        "processor_ratio": ratio(seconds["memory"], seconds["streamed"]),
    }


def ratio(above: list[float], below: list[float]) -> float:
    """The median over the rounds."""
    return statistics.median(one / other for one, other in zip(above, below, strict=True))


def processor_seconds() -> float:
    """The processor time of all processes that this one started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def trained(arguments: argparse.Namespace, place: Path, way: str) -> float:
    """Images/s of the last epoch, without compilation."""
    command = [sys.executable, "-m", "bncli", "train", "--data", arguments.folder, "--model", arguments.model]
    command += ["--epochs", arguments.epochs, "--out", place / "run", "--overwrite", "--json", "--quiet"]
    command += ["--no-stream"] if way == "memory" else ["--stream", "--workers", arguments.workers]
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache")}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=True)
    rows = (place / "run" / "metrics.jsonl").read_text().splitlines()
    assert done.stdout
    rate: float = json.loads(rows[-1])["images_per_second"]
    return rate


def decoding(arguments: argparse.Namespace) -> dict[str, object]:
    """Images/s of one worker, in turn with PyTorch's; the cache of decoded images is off."""
    pythons = {"bncli": (sys.executable, DECODE)}
    answer: dict[str, object] = {"batches": arguments.steps}
    if arguments.torch_python is not None:
        pythons["torch"] = (str(arguments.torch_python), DECODE_BY_TORCH)
        answer["torch_versions"] = torch_versions(arguments.torch_python)
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    seconds: dict[str, list[float]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as place:
        for number in range(arguments.rounds):
            for name, (python, code) in pythons.items() if number % 2 == 0 else reversed(pythons.items()):
                script = Path(place) / f"read_by_{name}.py"  # a `bncli.py` would hide the package
                script.write_text(code)
                command = [python, str(script), str(arguments.folder)]
                if number == 0:
                    decoded(command, 1, Path(place))  # the folder is measured
                rate, used = decoded(command, arguments.steps, Path(place))
                rates[name].append(rate)
                seconds[name].append(used)
    if "torch" in rates:
        answer["ratio"] = ratio(rates["bncli"], rates["torch"])
        answer["processor_ratio"] = ratio(seconds["torch"], seconds["bncli"])
    return answer | {
        name: {
            "images_per_second": values,
            "median": statistics.median(values),
            "processor_seconds_per_image": seconds[name],
        }
        for name, values in rates.items()
    }


def decoded(command: list[str], steps: int, place: Path) -> tuple[float, float]:
    """(images/s, processor seconds an image) of so many batches after the first."""
    environment = {**os.environ, "XDG_CACHE_HOME": f"{place}/cache", "BNCLI_DATA_CACHE": "0"}
    done = subprocess.run([*command, str(steps)], env=environment, capture_output=True, text=True, check=True)
    rate, used = json.loads(done.stdout)
    return rate, used


def torch_versions(python: Path) -> dict[str, str]:
    """The versions of what decodes for PyTorch."""
    code = "import json, PIL, numpy, torch; print(json.dumps([torch.__version__, PIL.__version__, numpy.__version__]))"
    done = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    return dict(zip(("torch", "pillow", "numpy"), json.loads(done.stdout), strict=True))


def ask(code: str, arguments: list[object], cache: Path) -> dict[str, float]:
    """The answer of a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main()
