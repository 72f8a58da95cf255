"""Engines on disk, by key: published whole or not at all, shared between processes, limited in size.

ROOT/entries/KEY/engine and entry.json; ROOT/requests/KEY.json; ROOT/locks/00 to ff.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from graphopt.errors import ModelError, UsageError
from graphopt.folders import cache_folder
from graphopt.ir.staging import staging

from .digest import file_digest, together

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT_BYTES = 20_000_000_000


class Stored:
    """One engine of the store."""

    def __init__(self, key: str, folder: Path, size: int, used: float, entry: dict[str, Any]) -> None:
        self.key = key
        self.folder = folder
        self.bytes = size
        self.used = used
        """When it was last asked for, in seconds since 1970."""
        self.entry = entry

    def to_json(self) -> dict[str, Any]:
        made = self.entry.get("manifest", {})
        return {
            "key": self.key,
            "bytes": self.bytes,
            "used": round(self.used),
            "source": made.get("source", ""),
            "backend": made.get("backend", ""),
            "version": made.get("version", ""),
            "seconds": self.entry.get("seconds", 0.0),
        }


class Store:
    """The engine cache in a folder. Raises UsageError where the folder cannot be made."""

    def __init__(self, root: Path | None = None, limit_bytes: int | None = None) -> None:
        self.root = root if root is not None else cache_folder() / "engines"
        self.limit_bytes = _limit() if limit_bytes is None else limit_bytes
        try:
            for name in ("entries", "requests", "locks"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UsageError(
                f"the engine cache cannot be used: {error.strerror}", where=str(self.root),
                hint="name another folder in GRAPHOPT_CACHE, or build with --no-cache",
            ) from error  # fmt: skip

    @contextmanager
    def turn(self, key: str, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
        """One process per key at a time; waiting() is called where another one is at it.

        The kernel gives the lock back when a process dies, however it dies.
        """
        handle = self._lock(key)
        try:
            try:
                if handle >= 0:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(handle, fcntl.LOCK_EX)
            except OSError:  # some network file systems have no locks: the same engine may be built twice
                pass
            yield
        finally:
            if handle >= 0:
                os.close(handle)

    def _lock(self, key: str) -> int:
        """An open file; -1 in a cache that can only be read, where no other process publishes the engine either."""
        path = self.root / "locks" / key[:2]
        for mode in (os.O_CREAT | os.O_RDWR, os.O_RDONLY):
            with suppress(OSError):
                return os.open(path, mode, 0o666)
        return -1

    def get(self, key: str, target: Path) -> dict[str, Any] | None:
        """Copy an engine to `target`; its entry. None where there is none; a damaged one is dropped.

        Raises OSError where `target` cannot be written.
        """
        engine = self.root / "entries" / key / "engine"
        try:
            entry = _read(engine.with_name("entry.json"))
        except FileNotFoundError:
            return None
        except (ValueError, OSError):
            self.drop(key)
            return None
        digest, unwritten = _copied(engine, target)
        if digest != entry.get("engine_digest") or entry.get("key") != key:
            self.drop(key)
            target.unlink(missing_ok=True)
            return None
        if unwritten is not None:
            raise unwritten
        with suppress(OSError):
            os.utime(engine.with_name("entry.json"))
        return entry

    def same(self, key: str, path: Path) -> dict[str, Any] | None:
        """The entry of an engine that is at `path` already, to the last bit."""
        try:
            entry = _read(self.root / "entries" / key / "entry.json")
            if path.stat().st_size != (self.root / "entries" / key / "engine").stat().st_size:
                return None
            return entry if entry.get("key") == key and file_digest(path) == entry.get("engine_digest") else None
        except (ValueError, OSError, ModelError):
            return None

    def put(self, key: str, engine: Path, entry: dict[str, Any]) -> str:
        """Keep a copy of an engine, and drop those that were not asked for longest; '' or why it could not be kept."""
        try:
            with staging(self.root) as folder:
                made = folder / key
                made.mkdir()
                digest, unwritten = _copied(engine, made / "engine")
                if unwritten is not None:
                    raise unwritten
                with (made / "engine").open("rb") as file:
                    os.fsync(file.fileno())
                _write(made / "entry.json", {**entry, "key": key, "engine_digest": digest})
                os.rename(made, self.root / "entries" / key)
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):  # another process has kept it
                return error.strerror or str(error)
        self.prune(keep=key)
        return ""

    def request(self, key: str) -> dict[str, Any] | None:
        """What was answered to this request before."""
        try:
            return _read(self.root / "requests" / f"{key}.json")
        except (OSError, ValueError):
            return None

    def answer(self, key: str, data: dict[str, Any]) -> None:
        """Remember what was answered to a request."""
        with suppress(OSError), staging(self.root) as folder:
            _write(folder / "answer.json", data)
            os.replace(folder / "answer.json", self.root / "requests" / f"{key}.json")

    def entries(self) -> list[Stored]:
        """Every engine, the one that was asked for last first."""
        found = []
        for folder in (self.root / "entries").iterdir():
            with suppress(OSError):
                stat = (folder / "entry.json").stat()
                size = sum(one.stat().st_size for one in folder.iterdir())
                try:
                    entry = _read(folder / "entry.json")
                except ValueError:
                    entry = {}
                found.append(Stored(folder.name, folder, size, stat.st_mtime, entry))
        return sorted(found, key=lambda one: -one.used)

    def verify(self, progress: Callable[[str, int, int], None] = lambda *_: None) -> list[tuple[Stored, str]]:
        """(engine, '' or what is wrong with it) of every engine; each is read as a whole."""
        found = []
        entries = self.entries()
        for number, one in enumerate(entries):
            progress("reading engines", number, len(entries))
            found.append((one, _problem(one)))
        return found

    def prune(self, limit_bytes: int | None = None, keep: str = "") -> list[Stored]:
        """Drop the engines that were not asked for longest, until the rest is within the limit; those dropped."""
        limit = self.limit_bytes if limit_bytes is None else limit_bytes
        total, dropped = 0, []
        for one in self.entries():
            if total + one.bytes > limit and one.key != keep:
                if self.drop(one.key):
                    dropped.append(one)
            else:
                total += one.bytes
        if dropped:
            self._forget()
        return dropped

    def drop(self, key: str) -> bool:
        """Remove an engine: first from its place, so that nobody sees half of it. Whether it could be."""
        with suppress(OSError), staging(self.root) as folder:
            os.rename(self.root / "entries" / key, folder / key)
            return True
        return False

    def _forget(self) -> None:
        for path in (self.root / "requests").glob("*.json"):
            with suppress(OSError, ValueError):
                if not (self.root / "entries" / str(_read(path).get("engine"))).is_dir():
                    path.unlink()


def _problem(one: Stored) -> str:
    if not one.entry:
        return "its entry cannot be read"
    if one.entry.get("key") != one.key:
        return "its entry belongs to another engine"
    try:
        digest = file_digest(one.folder / "engine")
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    return "" if digest == one.entry.get("engine_digest") else "its bytes are not those that were stored"


def parse_bytes(text: str) -> int:
    """'4G' = 4 * 2**30, '512' = 512 MiB as trtexec reads it, '100B' = 100. Raises UsageError."""
    number, unit = text.strip(), "M"
    if number[-1:].upper() in ("B", "K", "M", "G", "T"):
        number, unit = number[:-1], number[-1].upper()
    try:
        return int(float(number) * {"B": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}[unit])
    except ValueError:
        raise UsageError(f"{text!r} is no size", hint="write 512M, 4G, 100K or 4096B; a bare number is MiB") from None


def _limit() -> int:
    given = os.environ.get("GRAPHOPT_CACHE_LIMIT")
    return parse_bytes(given) if given else DEFAULT_BYTES


def _copied(source: Path, target: Path) -> tuple[str, OSError | None]:
    """(the digest of a file, '' where it cannot be read; why it could not be copied), taken while the kernel copies."""
    from shutil import copyfile

    def digest() -> str:
        try:
            return file_digest(source)
        except ModelError:
            return ""

    def copy() -> OSError | None:
        try:
            copyfile(source, target)
        except OSError as error:
            return error
        return None

    found: list[Any] = together((digest, copy))
    return found[0], found[1]


def _write(path: Path, data: dict[str, Any]) -> None:
    body = json.dumps(data, separators=(",", ":"))
    seal = hashlib.blake2b(body.encode(), digest_size=16).hexdigest()
    with path.open("w", encoding="utf-8") as file:
        file.write(f"{seal}\n{body}")
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path) -> dict[str, Any]:
    """What was written. Raises OSError, and ValueError where a bit has changed."""
    seal, _, body = path.read_text(encoding="utf-8").partition("\n")
    if hashlib.blake2b(body.encode(), digest_size=16).hexdigest() != seal:
        raise ValueError("it was changed since it was written")
    found = json.loads(body)
    if not isinstance(found, dict):
        raise ValueError("no object")
    return found


def age(used: float) -> str:
    """'5 min', '3 h', '2 days' since then."""
    seconds = max(time.time() - used, 0)
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
