"""All code that takes part in a build, as digests: none of it is imported, and a changed line of any of it is seen.

It loads fast: the standard library's slow modules are left alone.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from graphopt import __version__

from .digest import file_digest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_ASKING = (b"graphopt_builder", b"graphopt_inputs", b"import *")
"""A plugin with such hooks may bring in more than its source: it is asked. Starred imports may bring such a hook."""
_IMPORTS = re.compile(rb"\n[ \t]*(from|import)[ \t]+([A-Za-z_][^\n#;]*)")
_CODE = (".py", ".cuh", ".cu", ".h", ".json")
_LARGE = 1 << 20


class Source:
    """A package's folder, or a module's file."""

    def __init__(self, digest: str, asks: bool, imports: frozenset[str]) -> None:
        self.digest = digest
        self.asks = asks
        """Whether it may have hooks that make it part of every build."""
        self.imports = imports
        """The packages, by the first part of their names, that it imports anywhere."""


@cache
def source(place: str, imports: bool = True, everything: bool = True) -> Source:
    """What stands in a folder, or in a file. Raises OSError.

    imports: whether to find out what it imports, which takes as long as the rest. everything: all files but hidden and
    compiled ones, else code alone.
    """
    state, asks, found = hashlib.sha256(), False, set[str]()
    for name in _files(place):
        if not everything and not (name or place).endswith(_CODE):
            continue
        content = _content(os.path.join(place, name) if name else place)
        state.update(f"{name}\0{len(content)}\0".encode())
        state.update(content)
        if (name or place).endswith(".py"):
            asks = asks or any(word in content for word in _ASKING)
            found.update(_imported(content) if imports else ())
    return Source(state.hexdigest(), asks, frozenset(found))


def package_source(folder: Path) -> str:
    """A digest of all that stands in a package's folder, and in the source trees that it imports from."""
    return _reached([(folder.name, str(folder))])[0]


def forget() -> None:
    """Read everything anew when it is asked for again."""
    for one in (source, _distributions, _place, _is_installed):
        one.cache_clear()


def core() -> list[Any]:
    """graphopt's own code, Python, and the names and versions of all distributions."""
    home = str(Path(__file__).parents[1])
    return [__version__, source(home, imports=False).digest, sys.version, _distributions()[0]]


def plugins() -> list[Any] | None:
    """Every installed plugin, and its code. None where this cannot be said without loading them."""
    found = _distributions()[1]
    if found is None:
        return None
    places = []
    for top in sorted({re.split(r"[.:\[ ]", value, maxsplit=1)[0] for _, value in found}):
        place = _place(top)
        if place is None:
            return None
        places.append((top, place))
    digest, asks = _reached(places)
    return None if asks else [found, digest]


def _reached(places: Iterable[tuple[str, str]]) -> tuple[str, bool]:
    """(a digest, whether one asks) of packages and of what they import from other source trees.

    What lies in a folder of installed distributions has its version in that folder's listing; a source tree that was
    put on the path has none. Of such a tree, which may be anything, code is looked at.
    """
    state, asks, seen = hashlib.sha256(), False, {"graphopt"}
    todo = sorted(set(places))
    named = {name for name, _ in todo}
    while todo:
        name, place = todo.pop()
        if name in seen:
            continue
        seen.add(name)
        one = source(place, everything=name in named)
        asks = asks or one.asks
        state.update(f"{name}\0{one.digest}\0".encode())
        for other in sorted(one.imports - seen):
            if other not in sys.stdlib_module_names and (found := _place(other)) and not _is_installed(found):
                todo.append((other, found))
    return state.hexdigest(), asks


@cache
def _place(name: str) -> str | None:
    """The folder of a package, or the file of a module; None where there is none, or several."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None or spec.submodule_search_locations is None:
        return spec.origin if spec is not None and spec.has_location else None
    folders = list(spec.submodule_search_locations)
    return folders[0] if len(folders) == 1 else None


@cache
def _is_installed(place: str) -> bool:
    return any(name.endswith(".dist-info") for name in os.listdir(os.path.dirname(place)))


@cache
def _distributions() -> tuple[list[str], list[tuple[str, str]] | None]:
    """(the metadata folder of every distribution, name and value of every plugin), without parsing their metadata.

    Asking `importlib.metadata` takes a hundred times longer. The second is None where distributions may be elsewhere.
    """
    names: list[str] = []
    plugins: list[tuple[str, str]] = []
    plain = all(
        not hasattr(one, "find_distributions") or getattr(one, "__name__", "") == "PathFinder" for one in sys.meta_path
    )
    for place in sys.path:
        plain = plain and not os.path.isfile(place)
        with suppress(OSError):
            for name in os.listdir(place or "."):
                if name.endswith((".dist-info", ".egg-info")):
                    names.append(name)
                    with suppress(OSError):
                        plugins += _plugins(os.path.join(place, name, "entry_points.txt"))
    return sorted(names), sorted(plugins) if plain else None


def _plugins(path: str) -> Iterator[tuple[str, str]]:
    content = _content(path).decode("utf-8", "replace")
    section = ""
    for line in content.splitlines() if "[graphopt]" in content else ():
        line = line.strip()
        if line.startswith("["):
            section = line
        elif section == "[graphopt]" and "=" in line and not line.startswith(("#", ";")):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


def _files(place: str) -> Iterator[str]:
    if not os.path.isdir(place):
        yield ""
        return
    for folder, inner, names in os.walk(place):
        inner[:] = sorted(name for name in inner if name != "__pycache__" and not name.startswith("."))
        for name in sorted(names):
            if not name.endswith((".pyc", ".pyo")) and not name.startswith("."):
                yield os.path.join(folder, name)[len(place) + 1 :]


def _content(path: str) -> bytes:
    """The bytes of a file; of a large one, its digest."""
    handle = os.open(path, os.O_RDONLY)
    try:
        if os.fstat(handle).st_size > _LARGE:
            return file_digest(Path(path)).encode()
        content = b""
        while piece := os.read(handle, _LARGE):
            content += piece
        return content
    finally:
        os.close(handle)


def _imported(content: bytes) -> Iterator[str]:
    for word, what in set(_IMPORTS.findall(b"\n" + content)):
        for name in what.split(b",") if word == b"import" else [what]:
            yield re.split(rb"\W", name.strip(), maxsplit=1)[0].decode()
