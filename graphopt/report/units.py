"""Numbers as people read them; one spelling for text and HTML."""

from __future__ import annotations

import math


def size(count: int) -> str:
    """'10.8 MB', '512 bytes'; powers of 1000."""
    if count < 1000:
        return f"{count} bytes" if count != 1 else "1 byte"
    value, power = count / 1000, 0
    while value >= 999.95 and power < 3:
        value, power = value / 1000, power + 1
    unit = ("kB", "MB", "GB", "TB")[power]
    return f"{value:.1f} {unit}" if value < 99.95 else f"{value:.0f} {unit}"


def duration(seconds: float) -> str:
    """'8 ms', '1.2 s', '2 min 5 s'."""
    if seconds < 0.0005:
        return "< 1 ms"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    return f"{int(seconds) // 60} min {int(seconds) % 60} s"


def change(before: int, after: int) -> str:
    """'−10.7 %' where that says something, else '' or the plain difference."""
    if before == after:
        return "="
    if not before:
        return f"+{after:,}"
    percent = (after - before) / before * 100
    if abs(percent) < 0.05:
        return "< 0.1 %"
    return f"{sign(percent)}{abs(percent):.1f} %"


def difference(before: int, after: int) -> str:
    """'+3' or '−12'."""
    return f"{sign(after - before)}{abs(after - before):,}" if after != before else "="


def sign(number: float) -> str:
    return "+" if number > 0 else "\u2212" if number < 0 else ""


def error(number: float) -> str:
    """'0', '3.2e-07', 'not finite'."""
    if not math.isfinite(number):
        return "not finite"
    return "0" if number == 0 else f"{number:.1e}"


def dims(shape: tuple[int, ...] | list[int]) -> str:
    """'1x3x48x320', 'scalar'."""
    return "x".join(map(str, shape)) or "scalar"


def several(count: int, word: str, words: str = "") -> str:
    """'1 node', '3 nodes'."""
    return f"{count:,} {word if count == 1 else words or word + 's'}"
