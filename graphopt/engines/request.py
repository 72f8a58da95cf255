"""A whole command as one key: a changed bit of anything that decides what comes out is another key.

It loads fast: the standard library's slow modules are left alone.
"""

from __future__ import annotations

import ctypes
import os
from contextlib import suppress
from functools import cache

from graphopt.folders import measured_files

from .digest import digest_of, file_digest
from .sources import core, plugins

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from graphopt.project import Typed

SCHEMA = 3
_OBEYED = ("NVIDIA_TF32_OVERRIDE",)
"""Variables that TensorRT obeys when it builds."""
_LIBRARIES = ("LD_LIBRARY_PATH", "LD_PRELOAD")


class NoKey(Exception):
    """Why a build cannot be kept."""


def request_key(words: Mapping[str, Any], files: Mapping[str, str]) -> str:
    """The key of a command: its options, by name, the files that they name, with digests, and all code.

    The digests of a model's data files are not part of it: nobody knows them who has not parsed it.

    Raises NoKey where code of the user's own decides what comes out.
    """
    if any(":" in str(words.get(name) or "") for name in ("calib", "metric")):
        raise NoKey("code of your own takes part")
    named = [list(words.get(name) or ()) for name in ("plugin", "no_plugin")]
    try:
        asked = plugins() is None or bool(named[0] or os.environ.get("GRAPHOPT_PLUGINS"))
        if asked:
            from .loaded import loaded
        code = [core(), plugins(), loaded(*named) if asked else [], named[1]]
        measured = {path.name: file_digest(path) for path in measured_files()}
    except OSError as error:
        raise NoKey(f"a source cannot be read: {error}") from error
    decides = asked or bool(measured) or words.get("backend") == "tensorrt" or words.get("precision") == "auto"
    parts = {
        "schema": SCHEMA,
        "code": code,
        "words": {name: words[name] for name in sorted(words)},
        "files": sorted(files.items()),
        "measured": sorted(measured.items()),
        "gpu": gpu() if decides else "",
        "platform": [platform(), _libraries()],
    }
    return digest_of(parts)


def call_key(typed: Typed) -> str:
    """The key of a command line as it was typed here: of all that decides what its words mean. Raises NoKey."""
    if plugins() is None:
        raise NoKey("plugins have to be loaded")
    names = sorted(name for name in os.environ if "GRAPHOPT" in name)
    parts = {
        "schema": SCHEMA,
        "code": [core(), plugins()],
        "typed": typed.words,
        "folder": os.getcwd(),
        "environment": [[name, os.environ[name]] for name in names],
        "project": [str(typed.project), typed.project_digest],
    }
    return digest_of(parts)


def platform() -> list[Any]:
    """What engines are for, beside their options: the system, the processor, and variables that change what is built.

    A cache may be shared by machines of several kinds.
    """
    return [os.uname().sysname, os.uname().machine, {name: os.environ[name] for name in _OBEYED if name in os.environ}]


def _libraries() -> list[Any]:
    """What the native libraries that are loaded depend on, as far as no distribution's version tells it."""
    found: list[Any] = [[name, os.environ.get(name)] for name in _LIBRARIES]
    for place in ["/etc/ld.so.cache", *os.environ.get("LD_LIBRARY_PATH", "").split(":")]:
        with suppress(OSError):
            if os.path.isdir(place):
                names = [os.path.join(place, name) for name in os.listdir(place)]
                names = [name for name in names if "nvinfer" in name or "nvonnx" in name or "tensorrt" in name]
            else:
                names = [place] if place else []
            found += [[name, os.path.realpath(name), os.stat(name).st_mtime_ns] for name in sorted(names)]
    return found


@cache
def gpu() -> str:
    """'NVIDIA H100 80GB HBM3, 132' of the first GPU: its name and number of multiprocessors; '' without a driver."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return ""
    device, count, name = ctypes.c_int(), ctypes.c_int(), ctypes.create_string_buffer(256)
    multiprocessors = 16
    if cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(device), 0) or cuda.cuDeviceGetName(name, 256, device):
        return ""
    cuda.cuDeviceGetAttribute(ctypes.byref(count), multiprocessors, device)
    return f"{name.value.decode()}, {count.value}"
