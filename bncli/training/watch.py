"""Signs that a run will not end well: a loss that explodes or stays at guessing, learning by heart, late statistics.

Everything follows from the history, so a resumed run tells what an uninterrupted one would.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, fmean

import numpy as np

from bncli.config.settings import RunConfig
from bncli.measure.score import EvalResult
from bncli.models import MODELS
from bncli.training.progress import EpochResult, Notice

# A loss that is so many times that of guessing has exploded.
EXPLODED = 10
# Epochs, and at least so many steps, within 2 % of the loss of guessing and 5 % of its accuracy: the network does not
# learn. Where images are mixed, the loss alone stays high while the accuracy rises. Some good runs begin at 100 steps.
STUCK_EPOCHS, STUCK_STEPS, STUCK_SHARE, STUCK_ACCURACY = 3, 150, 0.98, 0.05
# Epochs in a row, and at least so many steps, with so much of the training accuracy that guessing lacks, and none of it
# in validation: the network learns by heart.
HEART_EPOCHS, HEART_STEPS, HEART_SHARE = 3, 50, 0.15
# Validation images below which one of them is worth more than the difference between two epochs.
FEW_IMAGES = 20
# Accuracy that batch statistics must gain over running ones to be worth a word.
GAP = 0.1
_LABELS_OR_FEW = (
    "Either the labels do not belong to the images, or the images are too few: more of them help, or --weights to "
    "start from"
)


@dataclass(frozen=True)
class Guess:
    """The score of a network that ignores the images and answers with the shares of the classes.

    Attributes:
        loss: mean cross-entropy in nats, the entropy of the training labels; ln K for K classes of one size.
        accuracy: share of validation examples in the class that is the largest in training.
        num_val: validation examples.
    """

    loss: float
    accuracy: float
    num_val: int

    @classmethod
    def of_labels(cls, train: np.ndarray, val: np.ndarray) -> Guess:
        """The guess for labels [N] of the training and the validation split."""
        counts = np.bincount(train)
        shares = counts[counts > 0] / len(train)
        return cls(float(-(shares * np.log(shares)).sum()), float((val == counts.argmax()).mean()), len(val))

    def between(self, share: float) -> float:
        """The accuracy at this share of the way from guessing to 1."""
        return self.accuracy + share * (1 - self.accuracy)

    def good_luck(self, epochs: int = 1) -> float:
        """An accuracy that the best of so many epochs reaches by chance once in 40 times.

        For one epoch it lies two standard errors above that of guessing.
        """
        errors = NormalDist().inv_cdf(NormalDist().cdf(2) ** (1 / epochs))
        return self.accuracy + errors * math.sqrt(self.accuracy * (1 - self.accuracy) / self.num_val)


@dataclass(frozen=True)
class Watch:
    """Looks at the history of a run after each epoch.

    Attributes:
        config: settings of the run.
        steps_per_epoch: of the run.
        guess: the score of guessing.
    """

    config: RunConfig
    steps_per_epoch: int
    guess: Guess

    def notices(self, history: Sequence[EpochResult], score_by_batch: Callable[[], EvalResult]) -> Iterator[Notice]:
        """The signs that the last epoch of ``history`` is the first to show.

        Args:
            history: at least one epoch.
            score_by_batch: the validation score where BN normalizes by the statistics of each batch; called where it
                can matter.
        """
        for sign in (self._exploding, self._stuck, self._by_heart, self._lagging):
            told = sign(history)
            if told and not sign(history[:-1]):
                yield Notice(told)
        if len(history) == self.config.training.epochs:
            yield from self._at_the_end(history, score_by_batch)

    def looks_lagging(self, *, train_loss: float, train_accuracy: float, val_loss: float, val_accuracy: float) -> bool:
        """True if validation is so far behind training that the running statistics may be the cause."""
        return val_accuracy <= train_accuracy - GAP or val_loss > train_loss + self.guess.loss / 2

    def _lagging(self, history: Sequence[EpochResult]) -> str:
        """A sign of two epochs in a row, or of the last one: the first epoch of many healthy runs has it too."""
        running = [row.epoch for row in history if row.val_statistics != "measured"]
        in_a_row = len(history) - max(running, default=0)
        enough = 1 if len(history) == self.config.training.epochs else 2
        if not self.may_lag or in_a_row < enough:
            return ""
        return (
            f"epoch {history[-1].epoch}: {self._lagging_remedy()}. Validation uses statistics taken anew from training "
            "images, and the best epoch gets them at the end"
        )

    def _exploding(self, history: Sequence[EpochResult]) -> str:
        if not history or not max(history[-1].train_loss, history[-1].val_loss) > EXPLODED * self.guess.loss:
            return ""
        row = history[-1]
        losses = (
            f"epoch {row.epoch}: the loss is {_number(row.train_loss)} in training and {_number(row.val_loss)} in "
            f"validation, where guessing has {self.guess.loss:.3g}"
        )
        if row.train_loss <= self.guess.loss and self.may_lag:
            return f"{losses}. {self._lagging_remedy()}"
        return f"{losses}. {self._rate_remedy()}"

    def _stuck(self, history: Sequence[EpochResult]) -> str:
        last = history[-STUCK_EPOCHS:]
        if len(last) < STUCK_EPOCHS or len(history) * self.steps_per_epoch < STUCK_STEPS:
            return ""
        if not all(STUCK_SHARE <= row.train_loss / self.guess.loss <= EXPLODED for row in last if self.guess.loss):
            return ""
        if fmean(row.train_accuracy for row in last) > self.guess.between(STUCK_ACCURACY):
            return ""
        return (
            f"epochs {last[0].epoch} to {last[-1].epoch}: the training loss, now {last[-1].train_loss:.3g}, is no "
            f"better than that of guessing, {self.guess.loss:.3g}. {self._rate_remedy()}, or the labels do not belong "
            "to the images"
        )

    def _by_heart(self, history: Sequence[EpochResult]) -> str:
        last = history[-HEART_EPOCHS:]
        if len(last) < HEART_EPOCHS or len(history) * self.steps_per_epoch < HEART_STEPS or self.has_few_images:
            return ""
        learnt = self.guess.between(HEART_SHARE)
        val_accuracy = fmean(row.val_accuracy for row in last)
        if min(row.train_accuracy for row in last) < learnt or val_accuracy > self.guess.good_luck():
            return ""
        if min(row.val_loss for row in last) < self.guess.loss:
            return ""
        return (
            f"epochs {last[0].epoch} to {last[-1].epoch}: the training accuracy reaches {last[-1].train_accuracy:.2f}, "
            f"the validation accuracy {val_accuracy:.2f}, where guessing has {self.guess.accuracy:.2f}: the network "
            f"learns the training images by heart. {_LABELS_OR_FEW}"
        )

    def _at_the_end(self, history: Sequence[EpochResult], score_by_batch: Callable[[], EvalResult]) -> Iterator[Notice]:
        if self.has_few_images:
            yield Notice(
                f"{self.guess.num_val} validation images cannot tell epochs apart, and the best one was chosen by "
                "little more than luck. --val-fraction 0.3 sets more aside"
            )
        last = history[-1]
        gap = self.looks_lagging(
            train_loss=last.train_loss,
            train_accuracy=last.train_accuracy,
            val_loss=last.val_loss,
            val_accuracy=last.val_accuracy,
        )
        if self.may_lag and gap and last.val_statistics != "measured":
            by_batch = score_by_batch()
            if by_batch.accuracy >= last.val_accuracy + GAP:
                yield Notice(
                    f"the validation accuracy is {last.val_accuracy:.4f} with BN's running statistics and "
                    f"{by_batch.accuracy:.4f} with those of each batch. {self._lagging_remedy()}; for this run: "
                    "bncli recalibrate"
                )
                return
        best = max(row.val_accuracy for row in history)
        if self.guess.loss and best <= self.guess.good_luck(len(history)):
            yield Notice(
                f"no epoch is better on the validation images than guessing ({self.guess.accuracy:.4f}), luck aside. "
                f"{self._end_remedy(last)}"
            )

    @property
    def has_few_images(self) -> bool:
        """True if the accuracy of an epoch on the validation images is mostly luck."""
        return self.guess.num_val < FEW_IMAGES

    @property
    def may_lag(self) -> bool:
        """True if the validation split is scored with running averages that training moves."""
        training, frozen = self.config.training, self.config.finetune.freeze_bn is not None
        return self.config.model.has_bn and not training.precise_bn and training.ema_decay is None and not frozen

    def _lagging_remedy(self) -> str:
        model, steps = self.config.model, f"at {self.steps_per_epoch} steps an epoch"
        if model.name not in MODELS:
            return (
                f"BN's running statistics lag behind the weights {steps}. Lower the momentum of BN in {model.name}, or "
                "add --precise-bn"
            )
        return (
            f"BN's running statistics lag behind the weights: their momentum is {model.bn_momentum:g} {steps}. Lower "
            "--bn-momentum, or add --precise-bn"
        )

    def _end_remedy(self, last: EpochResult) -> str:
        """The likely cause of a run that never beats guessing: not the rate, if the training images are learnt."""
        if last.train_loss < STUCK_SHARE * self.guess.loss:
            return _LABELS_OR_FEW
        return f"{self._rate_remedy()}, or the labels do not belong to the images"

    def _rate_remedy(self) -> str:
        optimizer = self.config.optimizer
        clip = "" if optimizer.clip_norm else " or add --clip-norm 1"
        return f"Likely --learning-rate {optimizer.peak_learning_rate:g} is too high: lower it{clip}"


def _number(loss: float) -> str:
    return f"{loss:,.0f}" if loss >= 1000 else f"{loss:.3g}"
