"""What `enqueue` launches, without a GPU: which kernels, on which grids, with which arguments; do they compile?

The arrays lie in host memory, so that nothing runs: launches are written down.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.layers.facts import outputs_of
from graphopt.layers.kernel import HEADERS, Kernel, Launch, cpp, recorded
from graphopt.layers.specification import sizes_of, upper

from .cases import Case

ARCHITECTURES = ("sm_75", "sm_90")
"""The oldest GPU of TensorRT 10, and one whose compiler sees other paths."""
GRID = (2**31 - 1, 65535, 65535)
CHECK = r"""
namespace go_check {
template <class T> constexpr bool pointer = false;
template <class T> constexpr bool pointer<T*> = true;
template <class T> struct bare { using type = T; };
template <class T> struct bare<const T> { using type = T; };
template <class T> struct bare<T*> { using type = typename bare<T>::type*; };
template <class A, class B> constexpr bool same = false;
template <class A> constexpr bool same<A, A> = true;
struct Any {};
template <class P> constexpr bool whole = P(0.5) == P(0);
template <class P, class A> constexpr bool fits() {
    using To = typename bare<typename bare<P>::type>::type;
    if constexpr (pointer<P> || pointer<A>) return pointer<P> && (same<To, A> || same<A, Any*> || same<To, void*>);
    else if constexpr (same<A, long long>) return whole<P> && !same<P, bool>;
    else return same<To, A>;
}
template <class F> struct of;
template <class... P> struct of<void(P...)> {
    template <class... A> static constexpr int wrong() {
        if constexpr (sizeof...(P) != sizeof...(A)) return -1;
        else {
            const bool good[] = {fits<P, A>()..., true};
            for (int i = 0; i < int(sizeof...(P)); i++) if (!good[i]) return i + 1;
            return 0;
        }
    }
};
template <int WRONG> constexpr bool accepted() {
    static_assert(WRONG != -1, "it is launched with another number of arguments than it has parameters");
    static_assert(WRONG <= 0, "the argument of this number does not fit its parameter");
    return true;
}
}
"""


class HostArray(np.ndarray[Any, Any]):
    """An array in host memory that looks to `enqueue` like one of CuPy."""

    @property
    def data(self) -> Any:
        """Where it lies, as CuPy says it."""
        return SimpleNamespace(ptr=self.ctypes.data)


def host_array(shape: Sequence[int], dtype: Any, shift: int = 0) -> HostArray:
    """Zeros at an address that is a multiple of 256, plus `shift` elements."""
    kind = np.dtype(dtype)
    count = int(np.prod(shape, dtype=np.int64))
    room = np.zeros(count * kind.itemsize + 256 + shift * kind.itemsize, np.uint8)
    start = -room.ctypes.data % 256 + shift * kind.itemsize
    array: HostArray = room[start : start + count * kind.itemsize].view(kind).reshape(tuple(shape)).view(HostArray)
    return array


@dataclass
class Enqueued:
    """One call of `enqueue`: its arrays and what it launched, in order."""

    inputs: list[HostArray]
    outputs: list[HostArray]
    workspace: HostArray
    launches: list[Launch]


def enqueue(
    case: Case, tactic: int = 0, shift: int = 0, poison: int = 0, allocate: Callable[..., HostArray] = host_array
) -> Enqueued:
    """Call `enqueue` on host arrays of the case's values, all others bytes of `poison`. Raises what it raises."""
    layer, values = case.layer, case.arrays()
    inputs = {}
    for name in case.present:
        inputs[name] = allocate(case.shapes[name], case.kinds[name], shift)
        inputs[name][...] = values[name]
    made = outputs_of(layer, dict(zip(case.present, case.tensors(), strict=True)))
    kinds = [(one.dtype, upper(one)) for one in made] + [(np.dtype(np.int32), ())] * len(sizes_of(made))
    outputs = [allocate(shape, kind, shift) for kind, shape in kinds]
    extra: dict[str, Any] = {}
    scratch = int(layer.workspace(*case.tensors(), *made)) if "workspace" in layer.named else 0
    room = allocate((-(-scratch // 256) * 256,), np.uint8)  # TensorRT aligns it
    workspace = room[:scratch].view(HostArray)
    for one in (*outputs, workspace):
        one.reshape(-1).view(np.uint8)[...] = poison
    if "workspace" in layer.named:
        extra["workspace"] = workspace
    if "tactic" in layer.named:
        extra["tactic"] = tactic or next(iter(layer.tactics()), 0)
    launches: list[Launch] = []
    if not outputs or any(one.size for one in outputs):
        with recorded(launches):
            layer.enqueue(*(inputs.get(name) for name in layer.inputs), *outputs, **extra)
    return Enqueued(list(inputs.values()), outputs, workspace, launches)


def wrong_launch(launch: Launch) -> str:
    """Why no GPU takes the launch; '' if they all do."""
    grid, block = (*launch.grid, 1, 1)[:3], (*launch.block, 1, 1)[:3]
    threads = int(np.prod(block))
    if any(size > most for size, most in zip(grid, GRID, strict=True)) or min(grid) < 0:
        return f"{launch.expression}: a grid of {grid}: at most {GRID}"
    if not 1 <= threads <= 1024 or block[2] > 64:
        return f"{launch.expression}: a block of {block}: 1 to 1024 threads"
    if launch.shared_mem > 64 << 10:
        return f"{launch.expression}: {launch.shared_mem} bytes of shared memory: some GPUs have 64 KiB"
    return ""


def compiler() -> str:
    """'nvcc', 'nvrtc' (CuPy brings it), or '' where neither is installed."""
    if shutil.which("nvcc"):
        return "nvcc"
    try:
        from cupy.cuda import nvrtc

        nvrtc.getVersion()
    except Exception:
        return ""
    return "nvrtc"


def compiled(launches: Iterable[Launch]) -> Iterator[tuple[str, str]]:
    """(kernel, what the compiler says, '' if nothing) for each kernel that is launched, with all its instances."""
    by: dict[int, tuple[Kernel, dict[str, set[tuple[str, ...]]]]] = {}
    for launch in launches:
        _, instances = by.setdefault(id(launch.kernel), (launch.kernel, {}))
        instances.setdefault(launch.expression, set()).add(tuple(_kind(one) for one in launch.arguments))
    use = compiler()
    for kernel, instances in by.values():
        text = kernel.source + CHECK
        for number, (expression, every) in enumerate(instances.items()):
            name = f"go_check_{number}"
            text += f'\nextern "C" __device__ void* {name} = (void*)&{expression};'
            for kinds in every:
                words = ", ".join(kinds)
                call = f"go_check::of<decltype({expression})>::wrong<{words}>()"
                text += f'\nstatic_assert(go_check::accepted<{call}>(), "{expression}");'
        yield kernel.name, _nvcc(kernel, text) if use == "nvcc" else _nvrtc(kernel, text)


def _kind(value: Any) -> str:
    if value is None:
        return "go_check::Any*"
    if isinstance(value, (bool, np.bool_)):
        return "bool"
    if isinstance(value, (int, np.int64)):
        return "long long"
    if isinstance(value, float):
        return "float"
    if isinstance(value, np.ndarray):
        return "go_check::Any*" if value.dtype == np.uint8 and value.ndim == 1 else f"{cpp(value.dtype)}*"
    return cpp(np.dtype(type(value)))


def _nvcc(kernel: Kernel, text: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder, f"{kernel.name}.cu")
        source.write_text(text)
        for arch in ARCHITECTURES:
            words = ["nvcc", "-std=c++17", f"-arch={arch}", "-cubin", f"-I{HEADERS}", *kernel.options]
            done = subprocess.run(
                [*words, "-o", os.devnull, str(source)], capture_output=True, text=True, check=False, cwd=folder
            )
            if done.returncode:
                return f"for {arch}: {(done.stderr or done.stdout).strip().replace(folder + os.sep, '')}"
    return ""


def _nvrtc(kernel: Kernel, text: str) -> str:
    for arch in ARCHITECTURES:
        try:
            Kernel(text, kernel.name, options=kernel.options).compile("go_check_0", arch)
        except GraphoptError as error:
            return f"for {arch}: {error.what}"
    return ""
