#!/usr/bin/env python3
"""``bncli train --data FOLDER`` with no other option, on many kinds of folders, beside a simple baseline.

The folders are drawn here (shapes, gratings, colours, in several counts and sizes) or made of real images:
scikit-learn's digits, Fashion-MNIST where ``bncli data fetch fashion-mnist`` or a system package has put it and, with
``--photos FOLDER``, class folders of photographs. The baseline is scikit-learn's
logistic regression on the pixels of the same images, scaled to 12×12. A folder fails if the network ends near chance
and the baseline does not. Prints a line for each folder and writes ``scripts/results/own_data.json`` after each; the
next call goes on there.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from bncli.data import Dataset, Split

Draw = Callable[[np.random.Generator, int, int], Image.Image]  # (random numbers, class, side) -> image

RESULTS = Path(__file__).parent / "results" / "own_data.json"
BASELINE_SIDE = 12
SHAPES = ("ellipse", "rectangle", "triangle", "cross", "ring")


@dataclass(frozen=True)
class Folder:
    """A folder to make: classes, images of each class, side in pixels."""

    draw: Draw
    classes: int
    images: tuple[int, ...] | int  # of each class
    side: int
    grey: bool = False

    @property
    def counts(self) -> tuple[int, ...]:
        """Images of each class."""
        return (self.images,) * self.classes if isinstance(self.images, int) else self.images


def shape(rng: np.random.Generator, label: int, side: int) -> Image.Image:
    """One of five shapes at any place, in any colour, on noise."""
    image = Image.fromarray(rng.integers(60, 196, (side, side, 3), dtype=np.uint8))
    draw, colour = ImageDraw.Draw(image), tuple(map(int, rng.integers(0, 256, 3)))
    size = int(side * rng.uniform(0.3, 0.6))
    x, y = (int(value) for value in rng.integers(0, side - size, 2))
    box, half, width = (x, y, x + size, y + size), size // 2, max(1, size // 5)
    match SHAPES[label % len(SHAPES)]:
        case "ellipse":
            draw.ellipse(box, fill=colour)
        case "rectangle":
            draw.rectangle(box, fill=colour)
        case "triangle":
            draw.polygon([(x + half, y), (x, y + size), (x + size, y + size)], fill=colour)
        case "cross":
            draw.line((x + half, y, x + half, y + size), fill=colour, width=width)
            draw.line((x, y + half, x + size, y + half), fill=colour, width=width)
        case _:
            draw.ellipse(box, outline=colour, width=width)
    return image


def grating(rng: np.random.Generator, label: int, side: int) -> Image.Image:
    """Stripes: ten orientations in each of several frequencies, at any phase, in noise."""
    angle, cycles = np.pi * (label % 10) / 10, 4 + 3 * (label // 10)
    y, x = np.mgrid[:side, :side] / side
    wave = np.sin(2 * np.pi * cycles * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 2 * np.pi))
    noisy = 128 + 60 * wave[..., None] * rng.uniform(0.5, 1, 3) + rng.normal(0, 25, (side, side, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def colours(rng: np.random.Generator, label: int, side: int) -> Image.Image:
    """A hue for each class under bright or dark light, with smooth blobs."""
    hue = Image.new("HSV", (side, side), (label * 37 % 256, int(rng.integers(60, 160)), int(rng.integers(80, 250))))
    blobs = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)).resize((side, side))
    return Image.blend(hue.convert("RGB"), blobs, 0.4)


FOLDERS: dict[str, Folder] = {
    "shapes-60-96px": Folder(shape, 3, 20, 96),
    "shapes-600-96px": Folder(shape, 5, 120, 96),
    "shapes-600-32px": Folder(shape, 5, 120, 32),
    "shapes-grey-400-48px": Folder(shape, 4, 100, 48, grey=True),
    "shapes-1500-200px": Folder(shape, 5, 300, 200),
    "shapes-imbalanced-64px": Folder(shape, 4, (300, 100, 40, 20), 64),
    "gratings-10-500-64px": Folder(grating, 10, 50, 64),
    "gratings-50-2500-48px": Folder(grating, 50, 50, 48),
    "gratings-3-60-300px": Folder(grating, 3, 20, 300),
    "gratings-grey-10-1000-16px": Folder(grating, 10, 100, 16, grey=True),
    "gratings-imbalanced-32px": Folder(grating, 5, (400, 200, 100, 50, 25), 32),
    "colours-6-120-128px": Folder(colours, 6, 20, 128),
    "colours-20-2000-32px": Folder(colours, 20, 100, 32),
    "colours-3-90-16px": Folder(colours, 3, 30, 16),
}


def make_folder(folder: Folder, root: Path) -> None:
    """Write the folder's images as ``root/CLASS/NUMBER.png``."""
    rng = np.random.default_rng(0)
    for label, count in enumerate(folder.counts):
        place = root / f"class_{label:02}"
        place.mkdir(parents=True)
        for number in range(count):
            image = folder.draw(rng, label, folder.side)
            (image.convert("L") if folder.grey else image).save(place / f"{number:05}.png")


def make_digits(root: Path, *, side: int, count: int) -> None:
    """Write scikit-learn's digits."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    for number, (pixels, label) in enumerate(zip(digits.images[:count], digits.target[:count], strict=True)):
        (root / str(label)).mkdir(parents=True, exist_ok=True)
        image = Image.fromarray((pixels * 15.9).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC)
        image.save(root / str(label) / f"{number:04}.png")


def make_fashion(root: Path, *, side: int) -> None:
    """Write the 60,000 training images of Fashion-MNIST."""
    from bncli.data import load_dataset

    dataset = load_dataset("fashion-mnist")
    for split in (dataset.train, dataset.val):
        for number, (pixels, label) in enumerate(zip(split.images, split.labels, strict=True)):
            place = root / f"class_{label}"
            place.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(pixels.squeeze()).resize((side, side), Image.Resampling.BOX)
            image.save(place / f"{len(split)}-{number:05}.png")


def copy_photos(root: Path, photos: Path, *, classes: int, each: int) -> None:
    """Copy photographs of a folder, as they are."""
    for place in sorted(path for path in photos.iterdir() if path.is_dir())[:classes]:
        (root / place.name).mkdir(parents=True)
        for file in sorted(place.iterdir())[:each]:
            shutil.copy(file, root / place.name)


@dataclass(frozen=True)
class Case:
    """A folder to train on.

    Attributes:
        make: writes the folder.
        image_size: what ``--image-size`` says; None leaves it out.
    """

    make: Callable[[Path], None]
    image_size: int | None = None

    @property
    def options(self) -> list[str]:
        """Options of the command beside ``--data`` and ``--out``."""
        return [] if self.image_size is None else ["--image-size", str(self.image_size)]


def cases(photos: Path | None) -> dict[str, Case]:
    """For each name, the folder."""
    found = {name: Case(partial(make_folder, folder)) for name, folder in FOLDERS.items()}
    found["digits-1797-8px"] = Case(partial(make_digits, side=8, count=1797))
    found["digits-300-64px"] = Case(partial(make_digits, side=64, count=300))
    found["fashion-10-60000-16px"] = Case(partial(make_fashion, side=16))
    if photos is not None:
        five = partial(copy_photos, photos=photos, classes=5, each=200)
        found["photos-5-1000-32px"] = Case(five)
        found["photos-5-1000-64px"] = Case(five, image_size=64)
        found["photos-5-1000-96px"] = Case(five, image_size=96)
        found["photos-10-2000-32px"] = Case(partial(copy_photos, photos=photos, classes=10, each=200))
    return found


@dataclass(frozen=True)
class Row:
    """The outcome for one folder; accuracies are on its test split.

    Attributes:
        name: the folder.
        command: the command.
        classes: number of classes.
        images: number of images of all splits.
        side: of the images that the network sees, in pixels.
        chance: share of the largest class in the test split.
        baseline: accuracy of the baseline.
        accuracy: accuracy of the network.
        epochs: epochs that were run.
        seconds: wall-clock time of the command.
        cpu_seconds: processor time of the command.
        warnings: of the command.
    """

    name: str
    command: str
    classes: int
    images: int
    side: int
    chance: float
    baseline: float
    accuracy: float
    epochs: int
    seconds: float
    cpu_seconds: float
    warnings: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """True if the network is near chance where the baseline is not."""
        margin = 0.25 * (1 - self.chance)
        return self.accuracy < self.chance + margin and self.baseline > self.accuracy


def outcome(name: str, case: Case) -> Row:
    """Make a folder, run the plain command on it, and fit the baseline."""
    from bncli.data import ImageOptions, load_dataset

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        case.make(folder)
        trained = train(folder, Path(place) / "ckpt", case.options)
        dataset = load_dataset(str(folder), images=ImageOptions(size=case.image_size))
        return Row(
            name=name,
            command=" ".join(["bncli train --data FOLDER", *case.options]),
            classes=dataset.num_classes,
            images=len(dataset.train) + len(dataset.val) + len(dataset.test),
            side=dataset.image_shape[0],
            chance=float(np.bincount(dataset.test.labels).max() / len(dataset.test)),
            baseline=baseline(dataset),
            accuracy=trained.document["test"]["accuracy"],
            epochs=trained.document["epochs_run"],
            seconds=trained.seconds,
            cpu_seconds=trained.cpu_seconds,
            warnings=trained.warnings,
        )


@dataclass(frozen=True)
class Trained:
    """The output of a command, and its cost."""

    document: dict[str, Any]
    warnings: tuple[str, ...]
    seconds: float
    cpu_seconds: float


def train(folder: Path, out: Path, options: list[str]) -> Trained:
    """Run ``bncli train`` on the folder, in a process of its own."""
    command = [sys.executable, "-m", "bncli", "train", "--data", str(folder), "--out", str(out), "--json", *options]
    start, before = time.perf_counter(), cpu_seconds_of_children()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds, cpu_seconds = time.perf_counter() - start, cpu_seconds_of_children() - before
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stderr}")
    told = tuple(line.removeprefix("warning: ") for line in done.stderr.splitlines() if line.startswith("warning: "))
    return Trained(json.loads(done.stdout), told, seconds, cpu_seconds)


def cpu_seconds_of_children() -> float:
    """Processor time of all child processes that ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def baseline(dataset: Dataset) -> float:
    """Test accuracy of logistic regression on small pixels."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def pixels(split: Split) -> np.ndarray:
        size = (BASELINE_SIDE, BASELINE_SIDE)
        small = [Image.fromarray(image.squeeze()).resize(size, Image.Resampling.BOX) for image in split.images]
        return np.stack([np.asarray(image).reshape(-1) for image in small])

    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500, C=0.01))
    model.fit(pixels(dataset.train), dataset.train.labels)
    return float(model.score(pixels(dataset.test), dataset.test.labels))


def line(row: Row) -> str:
    """A row as text."""
    return (
        f"{row.name:28} {row.classes:3} classes {row.images:6,} images {row.side:4} px  chance {row.chance:.3f}  "
        f"baseline {row.baseline:.3f}  bncli {row.accuracy:.3f}  {row.epochs:3} epochs {row.seconds:6.0f} s"
        f"{'  FAILED' if row.failed else ''}{'  warned' if row.warnings else ''}"
    )


def read_rows(path: Path) -> dict[str, Row]:
    """The rows of an earlier, perhaps interrupted call, by name; none if the file does not exist."""
    if not path.exists():
        return {}
    rows = json.loads(path.read_text(encoding="utf-8"))["folders"]
    names = [field.name for field in fields(Row)]
    return {row["name"]: Row(**{name: row[name] for name in names}) for row in rows}


def document(rows: list[Row]) -> dict[str, Any]:
    """The rows as a JSON document."""
    from bncli.process.hardware import hardware, versions

    return {
        "schema": "bncli.bench-own-data/1",
        "command": "scripts/bench_own_data.py --photos PHOTOS",
        "versions": versions(),
        "hardware": asdict(hardware()),
        "folders": [asdict(row) | {"failed": row.failed} for row in rows],
    }


def write(path: Path, rows: list[Row]) -> None:
    """Replace the document at once, so that an interrupted call leaves the former one."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(document(rows), indent=1) + "\n", encoding="utf-8")
    unfinished.replace(path)


def main() -> None:
    """Parse the arguments, run what is not done yet, write after each folder, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="a folder; repeatable")
    parser.add_argument("--photos", type=Path, help="a folder of class folders with at least 200 photographs each")
    parser.add_argument("--json", type=Path, default=RESULTS, help=f"the document; default: {RESULTS.name}")
    parser.add_argument("--again", action="store_true", help="run folders that the document has, too")
    arguments = parser.parse_args()
    every = cases(arguments.photos)
    if unknown := set(arguments.only or ()) - set(every):
        parser.error(f"no such folder: {', '.join(sorted(unknown))}; there are {', '.join(every)}")
    for name in arguments.only or every:
        rows = read_rows(arguments.json)
        if name not in rows or arguments.again:
            rows[name] = outcome(name, every[name])
            write(arguments.json, sorted(rows.values(), key=lambda row: row.name))
        print(line(rows[name]), flush=True)


if __name__ == "__main__":
    main()
