#!/usr/bin/env python3
"""Training throughput of bncli beside PyTorch: the same networks, batches, optimizer, augmentation and data.

bncli runs its own loop, ``Trainer.epochs()``; PyTorch one of its kind (``torch_peer.py``), eager and compiled, in both
memory formats, of which the fastest is the peer. How they are interleaved: ``contest.py``. Prints tables, or with
``--json`` one document.

Compiled programs of both are kept in the user's cache, since compiling takes PyTorch minutes a case. ``--cold`` begins
with empty caches, for the time of the first work.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from contest import Contest, ContestError, Worker, add_options, check_torch, tell, torch_worker
from contest_report import Outcome, document, print_tables
from contest_worker import CASES, LARGE_CASES, NUM_CLASSES, Case, Recipe, Work, serve, synthetic_images

if TYPE_CHECKING:
    from bncli.config.settings import ModelConfig, RunConfig
    from bncli.data import Dataset
    from bncli.training.loop import Trainer

TORCH = {
    "eager": {"compiled": False, "channels_last": False},
    "eager channels_last": {"compiled": False, "channels_last": True},
    "compiled": {"compiled": True, "channels_last": False},
    "compiled channels_last": {"compiled": True, "channels_last": True},
}
# A GPU is so much faster than a CPU that its epoch must be longer to not end under way.
LONGER_ON = {"cpu": 1, "cuda": 12}
HELD_OUT = 256  # images of the validation and the test split, which are not used
SHARE_OF_GPU = 0.3  # at least, for JAX, which takes most of the memory by default; the others are there too
SHARE_OF_ALL = 0.9  # that the workers divide


class BncliTraining:
    """bncli's own training loop, pulled event by event."""

    def __init__(self, spec: dict[str, Any]) -> None:
        """Makes the data and the trainer.

        Args:
            spec: the fields of ``case``, and ``precision``.
        """
        from bncli.process.configure import configure
        from bncli.training import assembly, run

        configure(spec["precision"])
        self.case = Case(**spec["case"])
        self.dataset = synthetic_dataset(self.case)
        self.directory = tempfile.TemporaryDirectory()
        start = time.perf_counter()
        config = run_config(self.case, spec["precision"])
        self.trainer = assembly.create_trainer(config, self.dataset, Path(self.directory.name) / "ckpt")
        run.start(self.trainer, overwrite=False)
        self.events: Iterator[Any] = self.trainer.epochs()
        self.building = time.perf_counter() - start

    def facts(self) -> dict[str, Any]:
        import jax

        from bncli.process.hardware import hardware, versions

        return {
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(self.trainer.state.params)),
            "versions": versions(),
            "hardware": asdict(hardware()),
            "recipe": asdict(recipe(self.trainer)),
        }

    def first(self, batch_size: int) -> Work:
        assert batch_size == self.case.batch_size
        work = self.turn(1)  # a few steps, which the loop keeps under way
        return Work(self.building + work.seconds, work.images)

    def turn(self, amount: int) -> Work:
        import jax

        from bncli.training.progress import StepProgress

        before, start = int(self.trainer.state.step), time.perf_counter()
        for _ in range(amount):
            if not isinstance(next(self.events), StepProgress):
                raise ContestError("the epoch ended under way: give --train-steps")
        jax.block_until_ready(self.trainer.state)
        seconds, after = time.perf_counter() - start, int(self.trainer.state.step)
        steps_an_event = max(1, (after - before) // amount)
        left = (self.trainer.steps_per_epoch - after) // steps_an_event - 1
        return Work(seconds, (after - before) * self.case.batch_size, left)


def synthetic_dataset(case: Case) -> Dataset:
    """Noise, with the augmentation of the data set that it stands for."""
    from bncli.data import KNOWN, Split
    from bncli.data.dataset import RawDataset, build_dataset

    num_images = case.train_steps * case.batch_size
    raw = RawDataset(
        name="synthetic",
        class_names=tuple(map(str, range(NUM_CLASSES))),
        train=Split(*synthetic_images(num_images, case.image_shape)),
        val=Split(*synthetic_images(HELD_OUT, case.image_shape)),
        test=Split(*synthetic_images(HELD_OUT, case.image_shape)),
        augmentation=KNOWN[case.like].augmentation,
        source="synthetic",
    )
    return build_dataset(raw, val_fraction=0.1, seed=0)


def run_config(case: Case, precision: str) -> RunConfig:
    """One epoch with the settings of the case's recipe, or with bncli's own."""
    from bncli.config.options import by_key, sections_of
    from bncli.config.recipes import named_recipe, recommended, settled
    from bncli.config.settings import RunConfig
    from bncli.config.validation import validated

    asked = {
        by_key()["model.name"]: case.model,
        by_key()["training.epochs"]: 1,
        by_key()["training.batch_size"]: case.batch_size,
        by_key()["training.precision"]: precision,
    }
    found = named_recipe(case.recipe, {})
    chosen = {} if found is None else recommended(found, asked)
    return validated(RunConfig, **sections_of(settled(asked, chosen).items()))


def recipe(trainer: Trainer) -> Recipe:
    """The training that the peer must repeat."""
    from bncli.data.configured import augmentation_of
    from bncli.models.whitening import WHITEN

    config, dataset = trainer.config, trainer.dataset
    augmentation = augmentation_of(config.data, dataset)
    frozen = trainer.execution.settings_at(0).held
    return Recipe(
        model=config.model.name,
        image_shape=dataset.image_shape,
        num_images=len(dataset.train),
        batch_size=config.training.batch_size,
        dropout=own_dropout(config.model),
        bn_momentum=1 - config.model.bn_momentum,
        bn_epsilon=config.model.bn_epsilon,
        trains_whitening=not any(path.startswith(f"{WHITEN}/") for path in frozen),
        trains_bn_scale=not any(path.endswith("/scale") for path in frozen),
        muon=muon(config.optimizer.name),
        learning_rate=config.optimizer.peak_learning_rate,
        triangle=triangle(config.optimizer.schedule),
        bias_lr_scale=config.finetune.bias_lr_scale,
        momentum=config.optimizer.momentum,
        weight_decay=config.optimizer.weight_decay,
        label_smoothing=config.optimizer.label_smoothing,
        ema_decay=config.training.ema_decay,
        max_shift=augmentation.max_shift,
        pad_mode=augmentation.pad_mode,
        horizontal_flip=augmentation.horizontal_flip,
        alternating_flip=augmentation.alternates,
        precision=config.training.precision,
    )


def triangle(schedule: str) -> tuple[float, float, float] | None:
    """The shares of the triangular schedule, as ``Recipe`` has them; None for another one."""
    from bncli.training.optimizer import TRIANGLE_END, TRIANGLE_START, TRIANGLE_TOP

    return (TRIANGLE_START, TRIANGLE_TOP, TRIANGLE_END) if schedule == "triangular" else None


def muon(optimizer: str) -> tuple[int, float, float] | None:
    """The constants of Muon, as ``Recipe`` has them; None for another optimizer."""
    from bncli.training.optimizer import MUON_ADAM_B2, MUON_ADAM_SHARE, MUON_ITERATIONS

    return (MUON_ITERATIONS, MUON_ADAM_SHARE, MUON_ADAM_B2) if optimizer == "muon" else None


def own_dropout(model: ModelConfig) -> float:
    """The dropout rate of a built-in network."""
    from bncli.models import MODELS

    return MODELS[model.name].default_dropout if model.dropout is None else model.dropout


def measure(name: str, options: argparse.Namespace, caches: Path) -> tuple[Outcome, dict[str, Any]]:
    """One case: what came of it, and hardware and versions."""
    case = asked_case(name, options)
    tell(name)
    contest = Contest(rounds=options.rounds, seconds=options.seconds)
    variants = options.variant or list(TORCH)
    with ExitStack() as stack:
        bncli = stack.enter_context(bncli_worker(options.device, cache=caches / "user", num_others=len(variants)))
        facts = contest.admit(bncli, {"case": asdict(case), "precision": options.precision})
        for number, (variant, settings) in enumerate(TORCH.items()):
            if variant not in variants:
                continue
            peer = stack.enter_context(
                torch_worker(variant, "train", python=options.torch_python, cache=caches / f"torch-{name}-{number}")
            )
            contest.admit(peer, {"recipe": facts["recipe"], "device": options.device, **settings})
        contest.check_parameters()
        outcome = contest.measure(name, case.batch_size)
        return outcome, contest.about()


def asked_case(name: str, options: argparse.Namespace) -> Case:
    """A case as the options change it; with another batch size, an epoch still has as many images."""
    case = (CASES | LARGE_CASES)[name]
    steps = options.train_steps or case.train_steps * LONGER_ON[options.device]
    if options.batch_size is None:
        return replace(case, train_steps=steps)
    if options.train_steps is None:
        steps = max(1, steps * case.batch_size // options.batch_size)
    return replace(case, train_steps=steps, batch_size=options.batch_size)


def bncli_worker(device: str, *, cache: Path, num_others: int) -> Worker:
    """bncli's process, which keeps its compiled programs in the folder ``cache``, where its JAX can keep them."""
    environment = {"JAX_PLATFORMS": device, "XDG_CACHE_HOME": str(cache)}
    if device != "cpu":
        environment["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{max(SHARE_OF_GPU, SHARE_OF_ALL / (1 + num_others)):.2f}"
    return Worker("bncli", [sys.executable, __file__, "--worker"], is_peer=False, environment=environment)


@contextmanager
def compile_caches(*, cold: bool) -> Iterator[Path]:
    """The folder of compiled programs: the user's own, or an empty one for the time being."""
    from bncli.process.cache import private_folder

    if cold:
        with tempfile.TemporaryDirectory() as empty:
            yield Path(empty)
    else:
        yield private_folder("bench_train")


def main() -> None:
    """Measures and prints."""
    if sys.argv[1:] == ["--worker"]:
        serve(BncliTraining)
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser, seconds=3.0, cases=[*CASES, *LARGE_CASES])
    parser.add_argument("--device", choices=LONGER_ON, default="cpu", help="default: cpu")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="default: float32")
    parser.add_argument("--cold", action="store_true", help="begin with empty compile caches")
    parser.add_argument("--train-steps", type=int, help="in an epoch, which must not end while it is measured")
    parser.add_argument("--batch-size", type=int, help="default: that of the case")
    parser.add_argument("--variant", action="append", choices=TORCH, help="of PyTorch; repeatable (default: all)")
    options = parser.parse_args()
    outcomes: list[Outcome] = []
    about: dict[str, Any] = {}
    try:
        check_torch(options.torch_python)
        with compile_caches(cold=options.cold) as caches:
            for name in options.case or CASES:
                start = time.perf_counter()
                outcome, about = measure(name, options, caches)
                outcomes.append(outcome)
                tell(f"  {name} took {time.perf_counter() - start:.0f} s")
    except ContestError as error:
        sys.exit(f"error: {error}")
    if options.json:
        settings = {
            "compile_caches": "empty" if options.cold else "kept",
            "device": options.device,
            "precision": options.precision,
            "turn_seconds": options.seconds,
        }
        print(json.dumps(document(outcomes, about | settings), indent=2))
    else:
        print_tables(outcomes)


if __name__ == "__main__":
    main()
