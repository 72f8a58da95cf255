"""Where values lie that live only between some steps: memory is shared by those that do not live at the same time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

ALIGNMENT = 256


def places(steps: Sequence[Sequence[str]], sizes: Mapping[str, int], *, start: int = 0) -> tuple[dict[str, int], int]:
    """(offset of each value, bytes in all), so that no two values overlap that live at the same time.

    steps: the values that each step reads or writes; a value lives from the first step that names it to the last.
    sizes: bytes of the values to be placed; others are left alone. start: the first byte that is free.
    The largest are placed first, each at the lowest offset that fits.
    """
    life: dict[str, tuple[int, int]] = {}
    for at, names in enumerate(steps):
        for name in names:
            if name in sizes:
                life[name] = (life.get(name, (at, at))[0], at)
    placed: list[tuple[int, int, str]] = []
    found: dict[str, int] = {}
    begin = _up(start)
    end = start
    for name in sorted(life, key=lambda name: (-sizes[name], life[name], name)):
        first, last = life[name]
        offset, size = begin, max(sizes[name], 1)
        for low, high, other in sorted(placed):
            overlaps = life[other][0] <= last and first <= life[other][1]
            if overlaps and low < offset + size and offset < high:
                offset = _up(high)
        found[name] = offset
        placed.append((offset, offset + size, name))
        end = max(end, offset + size)
    return found, end


def _up(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
