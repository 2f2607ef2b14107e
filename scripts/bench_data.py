#!/usr/bin/env python3
"""The reading of image folders: the start of a command, streamed beside in-memory training, and decoding.

::

    start      seconds and memory until a folder of --files small images is open, cold and warm, kept and streamed
    training   images/s of `bncli train` on FOLDER in memory and streamed, in turn
    decoding   images/s of one worker process on FOLDER, beside PyTorch's DataLoader if --torch-python names a Python

Each part runs in processes of its own, with a cache of its own. Prints a JSON document, ``bncli.bench-data/1``.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

OPEN = """
import json, resource, sys, time
start = time.perf_counter()
from bncli.data import ImageOptions, load_dataset
dataset = load_dataset(sys.argv[1], images=ImageOptions(stream=sys.argv[2] == "streamed"))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "max_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}))
"""
DECODE = """
import json, sys, time
import numpy as np
from bncli.data import ImageOptions
from bncli.data.feed import TrainingBatches, TrainingFeed
from bncli.data.folder import read_image_folder
if __name__ == "__main__":
    train = read_image_folder(__import__("pathlib").Path(sys.argv[1]), ImageOptions(stream=True)).train
    batches = TrainingBatches(train.images.source, train.images.rows, 0, 256, 0)
    feed = TrainingFeed(batches, workers=1)
    steps = int(sys.argv[2])
    feed.images(0)
    start = time.perf_counter()
    for step in range(1, steps + 1):
        feed.images(step)
    print(json.dumps(steps * 256 / (time.perf_counter() - start)))
    feed.close()
"""
DECODE_BY_TORCH = """
import json, sys, time
import numpy as np
import torch
from pathlib import Path
from PIL import Image

class Files(torch.utils.data.Dataset):
    def __init__(self, root):
        self.files = sorted(path for path in Path(root).rglob("*") if path.is_file())
    def __len__(self):
        return len(self.files)
    def __getitem__(self, index):
        with Image.open(self.files[index]) as image:
            return torch.from_numpy(np.array(image.convert("RGB")))

if __name__ == "__main__":
    loader = iter(torch.utils.data.DataLoader(Files(sys.argv[1]), batch_size=256, shuffle=True, num_workers=1))
    steps = int(sys.argv[2])
    next(loader)
    start = time.perf_counter()
    for _ in range(steps):
        next(loader)
    print(json.dumps(steps * 256 / (time.perf_counter() - start)))
"""


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
    arguments = parser.parse_args()
    document: dict[str, object] = {"schema": "bncli.bench-data/1", "cores": os.cpu_count()}
    if arguments.files:
        document["start"] = list(starts(arguments.files))
    if arguments.folder is not None and arguments.epochs:
        document["training"] = training(arguments)
    if arguments.folder is not None and arguments.steps:
        document["decoding"] = decoding(arguments)
    print(json.dumps(document, indent=2))


def starts(files: int) -> Iterator[dict[str, object]]:
    """The start on a folder of this many files, which is made for it."""
    with tempfile.TemporaryDirectory() as place:
        root = Path(place) / "images"
        write_images(root, files)
        for way in ("kept", "streamed"):
            cache = Path(place) / f"cache-{way}"
            for state in ("cold", "warm"):
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
    """Images/s of both ways in turn, and the median of the ratios."""
    rates: dict[str, list[float]] = {"memory": [], "streamed": []}
    with tempfile.TemporaryDirectory() as place:
        for number in range(arguments.rounds):
            for way in rates if number % 2 == 0 else reversed(rates):
                more = [] if way == "memory" else ["--stream", "--workers", arguments.workers]
                rates[way].append(trained(arguments, Path(place), more))
    ratios = [streamed / kept for kept, streamed in zip(rates["memory"], rates["streamed"], strict=True)]
    return {"model": arguments.model, "workers": arguments.workers, **rates, "ratio": statistics.median(ratios)}


def trained(arguments: argparse.Namespace, place: Path, more: list[object]) -> float:
    """Images/s of the last epoch, without compilation."""
    command = [sys.executable, "-m", "bncli", "train", "--data", arguments.folder, "--model", arguments.model]
    command += ["--epochs", arguments.epochs, "--out", place / "run", "--overwrite", "--json", "--quiet", *more]
    environment = {**os.environ, "XDG_CACHE_HOME": str(place / "cache")}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=True)
    rows = (place / "run" / "metrics.jsonl").read_text().splitlines()
    assert done.stdout
    rate: float = json.loads(rows[-1])["images_per_second"]
    return rate


def decoding(arguments: argparse.Namespace) -> dict[str, object]:
    """Images/s of one worker, in turn with PyTorch's; the cache of decoded images is off."""
    pythons = {"bncli": (sys.executable, DECODE)}
    if arguments.torch_python is not None:
        pythons["torch"] = (str(arguments.torch_python), DECODE_BY_TORCH)
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory() as place:
        for _ in range(arguments.rounds):
            for name, (python, code) in pythons.items():
                script = Path(place) / f"{name}.py"
                script.write_text(code)
                command = [python, str(script), str(arguments.folder), str(arguments.steps)]
                environment = {**os.environ, "XDG_CACHE_HOME": f"{place}/cache", "BNCLI_DATA_CACHE": "0"}
                done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
                rates[name].append(json.loads(done.stdout))
    return {name: {"images_per_second": values, "median": statistics.median(values)} for name, values in rates.items()}


def ask(code: str, arguments: list[object], cache: Path) -> dict[str, float]:
    """The answer of a process of its own."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    answer: dict[str, float] = json.loads(done.stdout)
    return answer


if __name__ == "__main__":
    main()
