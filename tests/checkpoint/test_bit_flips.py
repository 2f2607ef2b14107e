"""A flipped bit anywhere in a save is noticed, and nothing but a CheckpointError comes of it."""

import random

import pytest
from support.damage import few_or_many

from bncli import checkpoint
from bncli.errors import CheckpointError


@few_or_many(200, 5000)
def test_every_flipped_bit_in_a_save_is_noticed(copied, count):
    """Each file in turn, so that the small ones are hit as often; at last the save is whole again."""
    rng = random.Random(0)
    *_, last = checkpoint.complete_steps(copied)
    files = [copied / "steps" / f"{last}.sha256", *sorted((copied / "steps" / str(last)).rglob("*"))]
    files = [path for path in files if path.is_file()]
    assert len(files) > 10
    for number in range(count):
        path = files[number % len(files)]
        sound = path.read_bytes()
        flipped = bytearray(sound)
        flipped[rng.randrange(len(flipped))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        with pytest.raises(CheckpointError) as caught:
            checkpoint.verify(copied, last)
        assert str(copied / "steps") in caught.value.message
        assert caught.value.remedy
        path.write_bytes(sound)
    checkpoint.verify(copied, last)
