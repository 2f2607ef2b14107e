"""The C library's heap, for steps that allocate the same hundreds of megabytes again and again. glibc alone.

XLA allocates a step's temporary memory when the step begins and frees it when it ends. Two settings of the heap pay::

    keep_freed_memory    any glibc         without it, page faults take 0.13 of the 0.85 s of CPU time of a step
    in_one_place         glibc < 2.39      peak memory of 680 instead of 820 to 1,030 MiB

The figures are for ResNet-20, batches of 128, three runs of 18 steps on two cores, glibc 2.36, JAX 0.12.0.1.
"""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    import jax

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

# Parameter numbers of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# From this version on, memalign no longer loses what it cuts off (sourceware.org/bugzilla, 30723).
_FIXED_MEMALIGN = (2, 39)
# memalign asks the heap for this much beside the block: XLA's alignment, the smallest chunk, and a header.
_ALIGNING_BYTES = 64 + 32 + 16
# glibc's cache of a thread holds up to seven blocks of each size; memalign may have put blocks of these sizes there.
_CACHED_BLOCKS, _CUT_OFF_BYTES = 7, (24, 40, 56, 72, 88)
# A block that begins this near to its earlier place has not moved.
_NEAR_BYTES = 1 << 20
# Pages are given back in the first steps, and then once in so many: at 0.05 s and a step's page faults each, at most
# 1 % of the time.
_FIRST_TRIMS, _STEPS_PER_TRIM = 3, 50
# A step with less temporary memory costs little wherever it lies.
_MIN_PLACED_BYTES = 1 << 25


def is_glibc() -> bool:
    """True if the process runs on glibc."""
    return platform.libc_ver()[0] == "glibc"


def keep_freed_memory() -> None:
    """Keep the memory that the process frees.

    Otherwise the system hands out a step's activations page by page, cleared: 51,000 page faults in a ResNet-20 step.
    Call it before JAX starts its threads, since each would have an arena of its own.
    """
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # never


def in_one_place(step: Callable[Arguments, Result], program: jax.stages.Compiled) -> Callable[Arguments, Result]:
    """``step``, with the temporary memory of its ``program`` held once, however often it is called.

    Only a large program on a CPU with an older glibc needs that; any other step is returned as it is.
    """
    if not _loses_cut_off_blocks() or not _is_on_cpu():
        return step
    plan = program.memory_analysis()
    if plan is None or plan.temp_size_in_bytes < _MIN_PLACED_BYTES:
        return step
    place = Place(plan.temp_size_in_bytes)

    def placed_step(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        place.prepare()
        return step(*args, **kwargs)

    return placed_step


def _is_on_cpu() -> bool:
    import jax

    return jax.default_backend() == "cpu"


def _loses_cut_off_blocks() -> bool:
    name, version = platform.libc_ver()
    return name == "glibc" and tuple(int(part) for part in version.split(".")[:2]) < _FIXED_MEMALIGN


@dataclass
class Place:
    """The place in the heap of a step's temporary memory.

    The hole that a step leaves can be a hundred bytes short for the next step: glibc before 2.39 puts the blocks that
    memalign cut off into the thread's cache of small blocks. The next step then takes untouched memory, and the pages
    of the hole stay. So the cache is emptied of those blocks: of 60 steps of a small program only the first moved then,
    and 28 to 45 without. If a step will lie elsewhere all the same, the pages of all holes go back to the system first.

    Attributes:
        num_bytes: size of the memory.
    """

    num_bytes: int
    _address: int = field(default=0, init=False)
    _steps: int = field(default=0, init=False)
    _trims: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self._library = ctypes.CDLL(None)
        self._library.malloc.argtypes, self._library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        self._library.free.argtypes = [ctypes.c_void_p]

    def prepare(self) -> None:
        """Prepare the heap for a step: before each, on the thread that runs it, while none is in progress."""
        self._return_cut_off_blocks()
        address = self._next_address()
        moved = abs(address - self._address) > _NEAR_BYTES
        if moved and self._trims * _STEPS_PER_TRIM < self._steps + _FIRST_TRIMS * _STEPS_PER_TRIM:
            self._library.malloc_trim(0)
            self._trims += 1
        self._address = address
        self._steps += 1

    def _return_cut_off_blocks(self) -> None:
        """Fill the thread's cache with other blocks, freed first; its old blocks join the holes beside them."""
        malloc, free = self._library.malloc, self._library.free
        blocks = [malloc(size) for size in _CUT_OFF_BYTES for _ in range(2 * _CACHED_BLOCKS)]
        for block in reversed(blocks):
            free(block)

    def _next_address(self) -> int:
        """The address at which the heap has room; nothing is written there."""
        block = self._library.malloc(self.num_bytes + _ALIGNING_BYTES)
        self._library.free(block)
        return block or 0
