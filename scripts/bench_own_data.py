#!/usr/bin/env python3
"""``bncli train --data FOLDER`` with no other option, on many kinds of folders, beside a simple baseline.

The folders are drawn here (shapes, gratings, colours, in several counts and sizes) or made of real images:
scikit-learn's digits and, with ``--photos FOLDER``, class folders of photographs. The baseline is scikit-learn's
logistic regression on the pixels of the same images, scaled to 12×12. A folder fails if the network ends near chance
and the baseline does not. Prints a line a folder, or with ``--json`` a document.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw

if TYPE_CHECKING:
    from bncli.data import Dataset, Split

Draw = Callable[[np.random.Generator, int, int], Image.Image]  # (random numbers, class, side) -> image

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


def make_photos(root: Path, photos: Path, *, side: int, classes: int, each: int) -> None:
    """Write photographs of a folder, resized."""
    for place in sorted(path for path in photos.iterdir() if path.is_dir())[:classes]:
        (root / place.name).mkdir(parents=True)
        for file in sorted(place.iterdir())[:each]:
            with Image.open(file) as image:
                image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC).save(
                    root / place.name / f"{file.stem}.png"
                )


def makers(photos: Path | None) -> dict[str, Callable[[Path], None]]:
    """For each name, a function that writes the folder."""
    found: dict[str, Callable[[Path], None]] = {
        name: lambda root, folder=folder: make_folder(folder, root) for name, folder in FOLDERS.items()
    }
    found["digits-1797-8px"] = lambda root: make_digits(root, side=8, count=1797)
    found["digits-300-64px"] = lambda root: make_digits(root, side=64, count=300)
    if photos is not None:
        for side in (32, 64, 96):
            found[f"photos-5-1000-{side}px"] = lambda root, side=side: make_photos(
                root, photos, side=side, classes=5, each=200
            )
        found["photos-10-2000-32px"] = lambda root: make_photos(root, photos, side=32, classes=10, each=200)
    return found


@dataclass(frozen=True)
class Row:
    """The outcome for one folder; accuracies are on its test split."""

    name: str
    classes: int
    images: int
    side: int
    chance: float
    baseline: float
    accuracy: float
    epochs: int
    seconds: float
    warnings: tuple[str, ...]

    @property
    def failed(self) -> bool:
        """True if the network is near chance where the baseline is not."""
        margin = 0.25 * (1 - self.chance)
        return self.accuracy < self.chance + margin and self.baseline > self.accuracy


def outcome(name: str, make: Callable[[Path], None]) -> Row:
    """Make a folder, train on it as the plain command does, and fit the baseline."""
    import bncli
    from bncli.data.load import load_dataset
    from bncli.training.progress import Notice

    told: list[str] = []
    with tempfile.TemporaryDirectory() as place, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        make(Path(place) / "data")
        dataset = load_dataset(str(Path(place) / "data"))
        start = time.perf_counter()
        result = bncli.train(
            data=dataset,
            out=Path(place) / "ckpt",
            on_event=lambda event: told.append(event.message) if isinstance(event, Notice) else None,
        )
    return Row(
        name=name,
        classes=dataset.num_classes,
        images=len(dataset.train) + len(dataset.val) + len(dataset.test),
        side=dataset.image_shape[0],
        chance=float(np.bincount(dataset.test.labels).max() / len(dataset.test)),
        baseline=baseline(dataset),
        accuracy=result.test.accuracy,
        epochs=result.epochs_run,
        seconds=time.perf_counter() - start,
        warnings=tuple(told),
    )


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


def main() -> None:
    """Parse the arguments, run, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", action="append", metavar="NAME", help="a folder; repeatable")
    parser.add_argument("--photos", type=Path, help="a folder of class folders with at least 200 photographs each")
    parser.add_argument("--json", action="store_true", help="print the document")
    arguments = parser.parse_args()
    every = makers(arguments.photos)
    done = []
    for name in arguments.only or every:
        done.append(outcome(name, every[name]))
        if not arguments.json:
            print(line(done[-1]), flush=True)
    if arguments.json:
        print(json.dumps([asdict(row) | {"failed": row.failed} for row in done], indent=2))


if __name__ == "__main__":
    main()
