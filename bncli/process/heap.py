"""The C library's heap, for steps that ask for the same hundreds of megabytes again and again. glibc alone.

XLA allocates a step's temporary memory when the step begins and frees it when it ends.
"""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass, field

# Parameter numbers of malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX, _M_ARENA_MAX = -1, -4, -8
# What memalign asks the heap for beside the block: XLA's alignment, the smallest chunk, and a header.
_ALIGNING_BYTES = 64 + 32 + 16
# glibc's cache of a thread holds up to seven blocks of each size; those it may have taken what memalign cut off for.
_CACHED_BLOCKS, _CUT_OFF_BYTES = 7, (24, 40, 56, 72, 88)
# A block that begins this near to where it was has not moved.
_NEAR_BYTES = 1 << 20
# Pages given back in the first steps, and from then on once in so many: at 0.05 s and a step's page faults each, at
# most 1 % of the time.
_FIRST_TRIMS, _STEPS_PER_TRIM = 3, 50


def is_glibc() -> bool:
    """Whether the process runs on glibc."""
    return platform.libc_ver()[0] == "glibc"


def keep_freed_memory() -> None:
    """Has the process keep the memory it frees.

    As mappings of their own the system hands out a step's activations page by page, cleared: 50,000 page faults and
    0.12 of the 0.31 s of a ResNet-20 step. Before JAX starts its threads, since each would have an arena of its own.
    """
    mallopt = ctypes.CDLL(None).mallopt
    mallopt(_M_ARENA_MAX, 1)
    mallopt(_M_MMAP_MAX, 0)
    mallopt(_M_TRIM_THRESHOLD, 2**31 - 1)  # never


@dataclass
class Place:
    """Where in the heap the next step's temporary memory will lie.

    The hole that a step leaves can be a hundred bytes short for the next: glibc before 2.39 puts what memalign cut off
    into the thread's cache of small blocks (sourceware.org/bugzilla, 30723). The next step then takes untouched memory,
    and the pages of the hole stay: several times the 197 MB of a step of ResNet-20. So the cache is emptied of
    those blocks: of 60 steps of a small program only the first moved then, and 28 to 45 without. And before a step that
    will lie elsewhere all the same, the pages of all holes go back to the system.

    Attributes:
        num_bytes: that a step asks for.
    """

    num_bytes: int
    _address: int = field(default=0, init=False)
    _steps: int = field(default=0, init=False)
    _trims: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        """Declares the C functions."""
        self._library = ctypes.CDLL(None)
        self._library.malloc.argtypes, self._library.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
        self._library.free.argtypes = [ctypes.c_void_p]

    def prepare(self) -> None:
        """To be called before each step, by the thread that runs it, while none is under way."""
        self._return_cut_off_blocks()
        address = self._next_address()
        moved = abs(address - self._address) > _NEAR_BYTES
        if moved and self._trims * _STEPS_PER_TRIM < self._steps + _FIRST_TRIMS * _STEPS_PER_TRIM:
            self._library.malloc_trim(0)
            self._trims += 1
        self._address = address
        self._steps += 1

    def _return_cut_off_blocks(self) -> None:
        """Fills the thread's cache with others, freed first; what was in it joins the holes beside it."""
        malloc, free = self._library.malloc, self._library.free
        blocks = [malloc(size) for size in _CUT_OFF_BYTES for _ in range(2 * _CACHED_BLOCKS)]
        for block in reversed(blocks):
            free(block)

    def _next_address(self) -> int:
        """Where the heap has room; nothing is written there."""
        block = self._library.malloc(self.num_bytes + _ALIGNING_BYTES)
        self._library.free(block)
        return block or 0
