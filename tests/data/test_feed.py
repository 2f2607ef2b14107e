"""Laws of streamed images: the batches are those of the images in memory, from whatever step on."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bncli.data import epoch_batches, epoch_order, eval_batches, steps_per_epoch
from bncli.data.feed import TrainingBatches, TrainingFeed, images_of
from bncli.data.lazy_images import LazyImages
from bncli.data.sources import ArraySource
from bncli.errors import DataError
from bncli.process.mesh import rows_of_process

IMAGES = np.arange(60 * 12, dtype=np.uint32).astype(np.uint8).reshape(60, 2, 2, 3)
LAZY = LazyImages.of_array(IMAGES)


class Failing:
    """A source whose third image cannot be read."""

    shape = (2, 2, 3)

    def __len__(self):
        return 60

    def read(self, index):
        if index == 3:
            raise DataError("3.png: gone", remedy="Restore it.")
        return IMAGES[index]


def in_memory(epoch, batch_size, seed=7):
    """The images of each step of an epoch."""
    return [IMAGES[batch.indices] for batch in epoch_batches(epoch_order(seed, epoch, len(IMAGES)), batch_size)]


def feed_of(*, workers=0):
    """Eight images a step, in the order of seed 7."""
    return TrainingFeed(TrainingBatches(LAZY.source, LAZY.rows, 7, 8, 0), workers=workers)


@given(num_examples=st.integers(1, 60), batch_size=st.integers(1, 70), start=st.integers(0, 200))
def test_each_step_has_the_images_of_its_batch(num_examples, batch_size, start):
    """Example i of 60 has pixels that tell i: each is seen once an epoch, wherever the reading starts."""
    steps = steps_per_epoch(num_examples, batch_size)
    batches = TrainingBatches(ArraySource(IMAGES), np.arange(num_examples), seed=7, batch_size=batch_size, start=start)
    first = (-start) % steps  # the next epoch begins here
    epoch = (start + first) // steps
    order = epoch_order(7, epoch, num_examples)
    for step, batch in enumerate(epoch_batches(order, batch_size)):
        np.testing.assert_array_equal(batches[first + step], IMAGES[batch.indices])


@given(num_examples=st.integers(1, 60), per_device=st.integers(1, 8), devices=st.lists(st.integers(1, 3), max_size=4))
def test_processes_share_each_batch_and_read_each_image_once(num_examples, per_device, devices):
    """Processes with so many devices each: together they read every batch, and no image twice."""
    owners = [process for process, count in enumerate(devices or [1]) for _ in range(count)]
    batch_size = per_device * len(owners)
    whole = TrainingBatches(ArraySource(IMAGES), np.arange(num_examples), 7, batch_size, 0)
    parts = [replace(whole, part=rows_of_process(owners, process, batch_size)) for process in range(max(owners) + 1)]
    for step in range(steps_per_epoch(num_examples, batch_size)):
        np.testing.assert_array_equal(np.concatenate([part[step] for part in parts]), whole[step])


@settings(max_examples=10)
@given(jumps=st.lists(st.integers(0, 20), min_size=1, max_size=4))
def test_a_feed_can_jump_to_any_step(jumps):
    expected = in_memory(0, 8) + in_memory(1, 8) + in_memory(2, 8)
    feed = feed_of()
    for start in jumps:
        for step in (start, start + 1):
            np.testing.assert_array_equal(feed.images(step), expected[step])
    feed.close()


@pytest.mark.parametrize("workers", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)])
def test_workers_read_the_same_batches_in_order(workers):
    feed = feed_of(workers=workers)
    for step, expected in enumerate(in_memory(0, 8) + in_memory(1, 8)):
        np.testing.assert_array_equal(feed.images(step), expected)
    feed.close()


def test_evaluation_batches_are_those_in_memory():
    batches = list(eval_batches(60, 16))
    for streamed, kept in zip(images_of(LAZY, batches), images_of(IMAGES, batches), strict=True):
        np.testing.assert_array_equal(streamed, kept)


def test_images_are_indexed_as_an_array():
    assert LAZY.shape == IMAGES.shape
    np.testing.assert_array_equal(LAZY[5], IMAGES[5])
    np.testing.assert_array_equal(LAZY[3:50], IMAGES[3:50])
    np.testing.assert_array_equal(LAZY[np.array([9, 2, 2])], IMAGES[[9, 2, 2]])
    rest, taken = LAZY.split(np.array([1, 4]))
    np.testing.assert_array_equal(taken[:], IMAGES[[1, 4]])
    assert len(rest) == 58


def test_a_file_that_is_gone_is_named():
    feed = TrainingFeed(TrainingBatches(Failing(), np.arange(60), 7, 60, 0))
    with pytest.raises(DataError, match=r"3\.png: gone"):
        feed.images(0)
