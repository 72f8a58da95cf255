"""Launch geometry: how many blocks, how many elements per load."""

from __future__ import annotations

from typing import Any

WARP = 32
VECTOR_BYTES = 16


def blocks(count: int, per_block: int) -> int:
    """Blocks that cover `count` things, `per_block` each: 0 of nothing."""
    return -(-count // per_block)


def vector(*arrays: Any, columns: int = 0) -> int:
    """Elements per load of at most 16 bytes: the largest power of two at which every array is aligned.

    `columns`: rows of this length begin aligned too. Without it the total size of every array is a multiple.
    """
    width: int = VECTOR_BYTES // max(array.dtype.itemsize for array in arrays)
    while width > 1 and not all(
        array.data.ptr % (width * array.dtype.itemsize) == 0 and (columns or array.size) % width == 0
        for array in arrays
    ):
        width //= 2
    return max(width, 1)


def row_threads(columns: int, width: int = 1, most: int = 1024) -> int:
    """Threads of a block that reduces one row: a multiple of 32, enough for one load of `width` each, at most `most`.

    Beyond 256 threads each thread loads several times: more would only wait for each other.
    """
    loads = blocks(columns, width)
    threads = WARP
    while threads < min(loads, most) and (threads < 256 or loads > 4 * threads):
        threads *= 2
    return threads
