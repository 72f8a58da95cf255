"""Kernels of layers run on the CPU, thread by thread: right values, no byte outside, whatever order threads run in.

g++ compiles the CUDA source against emulator.h. Accesses of two threads to one byte
without a barrier between, one of them a write, are told as races. What it cannot tell: what the GPU's own arithmetic
rounds differently.
"""

from __future__ import annotations

import ctypes
import hashlib
import mmap
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.conformance import truth
from graphopt.conformance.cases import Case
from graphopt.conformance.launches import HostArray, enqueue
from graphopt.layers.facts import outputs_of
from graphopt.layers.kernel import HEADERS, Kernel, Launch
from graphopt.layers.specification import sizes_of

HERE = Path(__file__).parent
PLACES = (Path(shutil.which("nvcc") or "/").resolve().parent.parent, Path("/usr/local/cuda"))
INCLUDE = next((place / "include" for place in PLACES if (place / "include" / "cuda_fp16.h").exists()), None)
USABLE = bool(shutil.which("g++")) and INCLUDE is not None
PAGE = mmap.PAGESIZE
_LIBC = ctypes.CDLL(None, use_errno=True)


class Walled:
    """Memory between two pages that may not be touched. place: elements between an array's end and the second page;
    None: it begins after the first one.
    """

    def __init__(self, place: int | None) -> None:
        self.place = place
        self.maps: list[mmap.mmap] = []

    def __call__(self, shape: Any, dtype: Any, shift: int = 0) -> HostArray:
        kind = np.dtype(dtype)
        count = int(np.prod(shape, dtype=np.int64))
        size = count * kind.itemsize
        pages = -(-size // PAGE) + 2
        room = mmap.mmap(-1, pages * PAGE)
        self.maps.append(room)
        base = ctypes.addressof(ctypes.c_char.from_buffer(room))
        for wall in (base, base + (pages - 1) * PAGE):
            assert _LIBC.mprotect(ctypes.c_void_p(wall), ctypes.c_size_t(PAGE), 0) == 0
        gap = (self.place or 0) * kind.itemsize if size % PAGE and kind != np.uint8 else 0
        start = PAGE if self.place is None else (pages - 1) * PAGE - size - gap
        array = np.frombuffer(room, np.uint8, size, start) if size else np.zeros(0, np.uint8)
        made: HostArray = array.view(kind).reshape(tuple(shape)).view(HostArray)
        return made


def library(kernel: Kernel, expressions: set[str], folder: Path) -> tuple[Any, dict[str, str]]:
    """The kernel's instances, compiled."""
    source = re.sub(
        r"extern __shared__ (\w+) (\w+)\[\];", r"\1* \2 = reinterpret_cast<\1*>(emu::dynamic_shared);", kernel.source
    )
    source = re.sub(r"__shared__ (alignas\(\d+\))", r"\1 __shared__", source)
    names = {one: f"run_{number}" for number, one in enumerate(sorted(expressions))}
    text = f'#include "emulator.h"\n{source}\n'
    for one, name in names.items():
        text += (
            f'extern "C" __attribute__((visibility("default"))) '
            f"const char* {name}(const unsigned* shape, void** a, int order) "
            f"{{ return emu::run(&{one}, shape, a, order); }}\n"
        )
    stem = hashlib.sha256((text + (HERE / "emulator.h").read_text()).encode()).hexdigest()[:16]
    built = folder / f"{stem}.so"
    if not built.exists():
        (folder / f"{stem}.cpp").write_text(text)
        words = ["g++", "-std=c++17", "-O1", "-w", "-fPIC", "-fno-gnu-unique", "-fvisibility=hidden"]
        words += [f"-I{HERE}", f"-I{HEADERS}", f"-I{INCLUDE}"]
        checks = "shift,signed-integer-overflow,alignment,integer-divide-by-zero"
        watch = ["-fsanitize=thread", f"-fsanitize={checks}", "-fsanitize-undefined-trap-on-error"]
        _do([*words, *watch, "-c", "-o", str(folder / f"{stem}.o"), str(folder / f"{stem}.cpp")])
        _do([*words, "-shared", "-o", str(built), str(folder / f"{stem}.o"), str(HERE / "hooks.cpp")])
    return ctypes.CDLL(str(built)), names


def _do(words: list[str]) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[:3000]


class Emulator:
    """The kernels that these calls launch, compiled."""

    def __init__(self, cases: Iterable[Case], folder: Path) -> None:
        wanted: dict[int, tuple[Kernel, set[str]]] = {}
        for case in cases:
            for tactic in case.layer.tactics() or [0]:
                for place in (None, 0, 1):
                    for launch in enqueue(case, tactic, allocate=Walled(place)).launches:
                        wanted.setdefault(id(launch.kernel), (launch.kernel, set()))[1].add(launch.expression)
        self._built = {key: library(kernel, names, folder) for key, (kernel, names) in wanted.items()}

    def run(self, launches: list[Launch], order: int) -> str:
        """Run launches one after the other; what went wrong."""
        for launch in launches:
            built, names = self._built[id(launch.kernel)]
            function = getattr(built, names[launch.expression])
            function.restype = ctypes.c_char_p
            held = [_argument(value) for value in launch.arguments]
            arguments = (ctypes.c_void_p * len(held))(*[ctypes.addressof(one) for one in held])
            shape = (ctypes.c_uint * 6)(*(*launch.grid, 1, 1)[:3], *(*launch.block, 1, 1)[:3])
            told = function(shape, arguments, order)
            if told:
                return f"{launch.expression}: {told.decode()}"
        return ""

    def wrong(self, case: Case, tactic: int = 0) -> Iterator[str]:
        """What is wrong with a call, in each order of threads and each place in memory."""
        want = truth.truth(case, case.arrays())
        for order, place, poison in ((0, 0, 0xFF), (1, None, 0x7F), (2, 1, 0)):
            walled = Walled(place)
            made = enqueue(case, tactic, poison=poison, allocate=walled)
            before = [one.tobytes() for one in made.inputs]
            if told := self.run(made.launches, order):
                yield f"{case}, order {order}: {told}"
                return
            if before != [one.tobytes() for one in made.inputs]:
                yield f"{case}, order {order}: it changes its inputs"
            for name, got, wanted in zip(case.layer.outputs, _packed(case, made.outputs), want, strict=False):
                error, detail = truth.difference(got, wanted, got.dtype)
                if error > truth.limit(got.dtype):
                    yield f"{case}, order {order}: {name}: error {error:.3g}, {detail}"


def _argument(value: Any) -> Any:
    if value is None:
        return ctypes.c_void_p(0)
    if isinstance(value, np.ndarray):
        return ctypes.c_void_p(value.ctypes.data)
    if isinstance(value, (bool, np.bool_)):
        return ctypes.c_bool(bool(value))
    if isinstance(value, (int, np.integer)):
        return ctypes.c_longlong(int(value))
    return ctypes.c_float(float(value))


def _packed(case: Case, outs: list[HostArray]) -> list[np.ndarray[Any, Any]]:
    """The outputs of the body, axes whose size the kernel tells at that size."""
    made = outputs_of(case.layer, dict(zip(case.present, case.tensors(), strict=True)))
    sizes = sizes_of(made)
    told = {id(size): int(outs[len(made) + at]) for at, size in enumerate(sizes)}
    found = []
    for one, out in zip(made, outs, strict=False):
        shape = [told.get(id(dim), size) for dim, size in zip(one.shape, out.shape, strict=True)]
        assert all(0 <= real <= most for real, most in zip(shape, out.shape, strict=True)), shape
        found.append(np.asarray(out).ravel()[: int(np.prod(shape))].reshape(shape))
    return found
