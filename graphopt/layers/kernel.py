"""CUDA source that is compiled for the GPU at hand when it is first launched, and kept on disk."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from graphopt.errors import GraphoptError
from graphopt.folders import cache_folder

from .buffers import Buffer

HEADERS = Path(__file__).parent / "cuda"
"""Where `#include <graphopt.cuh>` is found: vector loads, reductions, conversion to float, fast division."""

CPP = {
    "float64": "double", "float32": "float", "float16": "__half", "bfloat16": "__nv_bfloat16",
    "float8_e4m3fn": "__nv_fp8_e4m3", "float8_e5m2": "__nv_fp8_e5m2",
    "int8": "signed char", "int16": "short", "int32": "int", "int64": "long long",
    "uint8": "unsigned char", "uint16": "unsigned short", "uint32": "unsigned int", "uint64": "unsigned long long",
    "bool": "bool",
}  # fmt: skip


class Kernel:
    """A `__global__` function of a CUDA source: `kernel((blocks,), (threads,), (x, y, count, self.epsilon))`.

    source: CUDA C++, as text. name: the function (or template); may be left out where the source has just one.
    types: template parameters that are dtypes of arguments: `("T",)` is the dtype of argument 0, `("T", "I")` of
    arguments 0 and 1, `{"T": 0, "I": 2}` says which. Other template parameters are given in brackets, which then
    hold all: `kernel[x.dtype, 8, True](grid, block, arguments)` launches `name<half, 8, true>`.
    options: more options of NVRTC ("-use_fast_math"). The language is C++17.

    Arguments: arrays go as pointers (None as a null pointer), bool as bool, int as 64 bits (a parameter may be `int` or
    `long long`), float as `float`, NumPy scalars as they are. Nothing is launched where a dimension of the grid is 0.
    Launches on the current CuPy stream; importing or making a Kernel loads no CuPy and compiles nothing.

    Compiled by NVRTC for the current device, and kept in $GRAPHOPT_CACHE (~/.cache/graphopt), under a name made of all
    that the result depends on: source, header, options, architecture, NVRTC's version.
    """

    def __init__(
        self,
        source: str,
        name: str = "",
        *,
        types: Sequence[str] | Mapping[str, int] = (),
        options: Sequence[str] = (),
    ) -> None:
        self.source = source
        self.name = name or _only_kernel(source)
        self.types = dict(types) if isinstance(types, Mapping) else {name: at for at, name in enumerate(types)}
        self.options = tuple(options)
        self._loaded: dict[tuple[int, str], Any] = {}

    def __getitem__(self, template: Any) -> Instance:
        """The instance for these template arguments: dtypes, numbers, booleans, or C++ text."""
        given = template if isinstance(template, tuple) else (template,)
        return Instance(self, f"{self.name}<{', '.join(cpp(item) for item in given)}>")

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], shared_mem: int = 0
    ) -> None:
        if self.types:
            self[tuple(arguments[at].dtype for at in self.types.values())](grid, block, arguments, shared_mem)
        else:
            Instance(self, self.name)(grid, block, arguments, shared_mem)

    def compile(self, expression: str = "", arch: str = "") -> tuple[Path, str]:
        """(cubin file, name in it) of `name<...>`, from the cache if it is there; needs NVRTC but no GPU.

        arch: as 'sm_90'; the current device's if not given. Raises GraphoptError with NVRTC's log.
        """
        from cupy.cuda import nvrtc

        expression = expression or self.name
        options = ("-std=c++17", *self.options, f"-arch={arch or _device_arch()}", f"-I{HEADERS}", *_include_options())
        content = [self.source, expression, *[o for o in options if not o.startswith("-I")], str(nvrtc.getVersion())]
        content += [path.read_text() for path in sorted(HEADERS.glob("*.cuh"))]
        key = hashlib.sha256(json.dumps(content).encode()).hexdigest()
        folder = cache_folder() / "kernels" / key[:2] / key
        if not (folder / "name").exists():
            _keep(folder, *_compile(self, expression, options))
        return folder / "kernel.cubin", (folder / "name").read_text()

    def _function(self, expression: str) -> Any:
        import cupy

        key = (cupy.cuda.runtime.getDevice(), expression)
        found = self._loaded.get(key)
        if found is None:
            path, name = self.compile(expression)
            found = self._loaded[key] = cupy.RawModule(path=str(path)).get_function(name)
        return found


@dataclass(frozen=True)
class Launch:
    """A launch that was written down."""

    kernel: Kernel
    expression: str
    grid: tuple[int, ...]
    block: tuple[int, ...]
    arguments: Sequence[Any]
    shared_mem: int


@contextmanager
def recorded(launches: list[Launch]) -> Iterator[None]:
    """Inside the block launches are added to the list, and nothing runs."""
    _RECORDS.append(launches)
    try:
        yield
    finally:
        _RECORDS.pop()


_RECORDS: list[list[Launch]] = []


class Instance:
    """One instance of a kernel; called like it."""

    __slots__ = ("expression", "kernel")

    def __init__(self, kernel: Kernel, expression: str) -> None:
        self.kernel = kernel
        self.expression = expression

    def __call__(
        self, grid: Sequence[int], block: Sequence[int], arguments: Sequence[Any], shared_mem: int = 0
    ) -> None:
        if 0 in grid:
            return
        if _RECORDS:
            _RECORDS[-1].append(Launch(self.kernel, self.expression, tuple(grid), tuple(block), arguments, shared_mem))
            return
        function = self.kernel._function(self.expression)
        if shared_mem > 48 << 10 and function.max_dynamic_shared_size_bytes < shared_mem:
            function.max_dynamic_shared_size_bytes = shared_mem
        function(tuple(grid), tuple(block), tuple(_argument(value) for value in arguments), shared_mem=shared_mem)


def cpp(item: Any) -> str:
    """A template argument in C++: 'half' of np.float16, '8' of 8, 'true' of True; text as it is."""
    if isinstance(item, str) and item not in CPP:
        return item
    if isinstance(item, (bool, np.bool_)):
        return "true" if item else "false"
    if isinstance(item, (int, np.integer)):
        return str(int(item))
    name = np.dtype(item).name
    if name not in CPP:
        raise GraphoptError(f"CUDA has no type for {name}")
    return CPP[name]


def _argument(value: Any) -> Any:
    if value is None:
        return np.uintp(0)
    if isinstance(value, bool):
        return np.bool_(value)
    if isinstance(value, int):
        return np.int64(value)
    if isinstance(value, Buffer):
        return value.raw
    return np.float32(value) if isinstance(value, float) else value


def _only_kernel(source: str) -> str:
    bounds = r"(?:__launch_bounds__\([^)]*\)\s*)?"
    found = set(re.findall(rf"__global__\s+{bounds}void\s+{bounds}(\w+)", source))
    if len(found) != 1:
        raise GraphoptError(f"the source has {len(found)} kernels: say which: Kernel(SOURCE, 'name')")
    return str(found.pop())


def _device_arch() -> str:
    import cupy

    return f"sm_{cupy.cuda.Device().compute_capability}"


def _include_options() -> list[str]:
    from cupy._environment import get_cuda_path

    places = (get_cuda_path(), os.environ.get("CUDA_HOME"), "/usr/local/cuda")
    folders = [Path(place) / "include" for place in places if place]
    return [f"-I{folder}" for folder in folders if (folder / "cuda_fp16.h").exists()][:1]


def _compile(kernel: Kernel, expression: str, options: Sequence[str]) -> tuple[bytes, str]:
    from cupy.cuda import nvrtc

    program = nvrtc.createProgram(kernel.source, f"{kernel.name}.cu", [], [])
    try:
        nvrtc.addNameExpression(program, expression)
        nvrtc.compileProgram(program, list(options))
        return nvrtc.getCUBIN(program), nvrtc.getLoweredName(program, expression)
    except nvrtc.NVRTCError as error:
        log = nvrtc.getProgramLog(program).strip()
        raise GraphoptError(
            f"the CUDA source does not compile:\n{log or error}", where=f"kernel {expression}"
        ) from None
    finally:
        nvrtc.destroyProgram(program)


def _keep(folder: Path, cubin: bytes, name: str) -> None:
    """Put both files in place at once; another process may have done so first."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".kernel-", dir=folder.parent))
    try:
        (temporary / "kernel.cubin").write_bytes(cubin)
        (temporary / "name").write_text(name)
        temporary.rename(folder)
    except OSError:
        if not (folder / "name").exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
