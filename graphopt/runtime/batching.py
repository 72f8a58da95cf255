"""Requests of any number of rows through an engine that likes batches: split, merged, padded, answered in order."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Self

from graphopt.errors import GraphoptError, UsageError

from . import device
from .rows import Arrays, Axes, Runner, concatenate, padded_sizes, smallest


@dataclass
class Statistics:
    """What a Batcher has done so far."""

    requests: int = 0
    batches: int = 0
    rows: int = 0
    padding: int = 0
    """Rows that were computed only to fill a batch up."""
    busy_seconds: float = 0.0
    """Time spent joining, running and cutting, over all workers."""

    @property
    def rows_per_batch(self) -> float:
        return self.rows / self.batches if self.batches else 0.0


@dataclass
class _Request:
    feeds: Mapping[str, Any]
    rows: int
    arrived: float
    ready: Any
    """What the device must have reached before the arrays may be read."""
    future: Future[Arrays] = field(default_factory=Future)
    taken: int = 0
    answered: int = 0
    parts: dict[int, Arrays] = field(default_factory=dict)


_Piece = tuple[_Request, int, int]


class Batcher:
    """result[r] = engine(request)[r] for every row r, whatever shares the batch with it.

    A request is a dict of arrays of equally many rows (along `axis`, by default the first). Rows that wait are merged
    up to `batch` (the profile's typical size if not given), larger requests are split, and what is left is padded
    with copies of its last row to one of `sizes` (the profile's least, powers of two, and `batch`). Requests that
    differ in other dimensions or in the kind of array are not merged. The engine must treat rows independently of
    each other; `graphopt run ENGINE --check` looks whether it does.

    delay_ms: how long the oldest row may wait for others to fill its batch; 0 takes what is there.
    shared: inputs without rows, the same for all requests. limit_rows: `submit` waits while more rows than this
    are queued. workers: threads that run batches side by side, each with a fork of the engine and a stream of its own.

    Thread-safe. Results are arrays of the request's kind; rows of one batch may be views of one array.

    Raises:
        UsageError: the engine's inputs or outputs have no batch axis, or it takes no batches of this size.
    """

    def __init__(
        self,
        engine: Runner,
        *,
        batch: int | None = None,
        delay_ms: float = 0.0,
        sizes: Sequence[int] | None = None,
        axis: int | Mapping[str, int] = 0,
        shared: Mapping[str, Any] | None = None,
        limit_rows: int | None = None,
        workers: int = 1,
    ) -> None:
        fork = getattr(engine, "fork", None)
        runners = [engine, *(fork() if fork is not None else engine for _ in range(workers - 1))]
        self._axes = Axes(engine, axis, shared or {}, batch)
        self.batch = self._axes.batch
        self.sizes = tuple(sorted({*sizes, self.batch})) if sizes else padded_sizes(self._axes.least, self.batch)
        if self.sizes[0] < self._axes.least or self.sizes[-1] > self.batch:
            raise UsageError(f"sizes {self.sizes}: choose among {self._axes.least} to {self.batch}")
        if delay_ms < 0 or workers < 1 or (limit_rows is not None and limit_rows < 1):
            raise UsageError("delay_ms must not be negative; workers and limit_rows must be at least 1")
        self.delay_ms = delay_ms
        self.statistics = Statistics()
        self._limit = limit_rows
        self._groups: dict[Any, deque[_Request]] = {}
        self._queued = 0
        self._closed = False
        self._change = threading.Condition()
        self._threads = [
            threading.Thread(target=self._work, args=(runner,), name=f"graphopt-batcher-{index}", daemon=True)
            for index, runner in enumerate(runners)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, feeds: Mapping[str, Any]) -> Future[Arrays]:
        """Queue a request; the future's result is a dict of the outputs' rows.

        Raises:
            UsageError: it does not fit the engine, or the batcher is closed. Nothing was queued then.
        """
        rows = self._axes.check(feeds)
        key = self._axes.key(feeds)
        request = _Request(dict(feeds), rows, time.monotonic(), device.mark(feeds.values()))
        with self._change:
            while self._limit is not None and self._queued and self._queued + rows > self._limit and not self._closed:
                self._change.wait()
            if self._closed:
                raise UsageError("the batcher is closed")
            self._groups.setdefault(key, deque()).append(request)
            self._queued += rows
            self.statistics.requests += 1
            self._change.notify_all()
        return request.future

    def __call__(self, feeds: Mapping[str, Any]) -> Arrays:
        """The outputs' rows for one request; it may share batches with those of other threads."""
        return self.submit(feeds).result()

    def map(self, requests: Iterable[Mapping[str, Any]], *, ahead: int = 64) -> Iterator[Arrays]:
        """The results of requests, in their order; up to `ahead` of them are under way at a time."""
        waiting: deque[Future[Arrays]] = deque()
        try:
            for feeds in requests:
                waiting.append(self.submit(feeds))
                if len(waiting) >= ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Answer what is queued, then end the threads. Safe to call twice."""
        with self._change:
            self._closed = True
            self._change.notify_all()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- workers -------------------------------------------------------------------------------------------------

    def _work(self, runner: Runner) -> None:
        with device.stream() as stream:
            while (pieces := self._take()) is not None:
                start = time.perf_counter()
                self._serve(runner, pieces, stream)
                with self._change:
                    self.statistics.busy_seconds += time.perf_counter() - start

    def _take(self) -> list[_Piece] | None:
        """The rows of the next batch; None when the batcher is closed and nothing is left."""
        with self._change:
            while True:
                key = self._oldest()
                if key is None:
                    if self._closed:
                        return None
                    self._change.wait()
                    continue
                group = self._groups[key]
                left = group[0].arrived + self.delay_ms / 1e3 - time.monotonic()
                if left <= 0 or self._closed or sum(one.rows - one.taken for one in group) >= self.batch:
                    return self._fill(key)
                self._change.wait(left)

    def _oldest(self) -> Any:
        """The key of the group whose first request has waited longest; requests that were given up are dropped."""
        for key in list(self._groups):
            group = self._groups[key]
            while group and group[0].taken == 0 and group[0].future.cancelled():
                self._queued -= group.popleft().rows
                self._change.notify_all()
            if not group:
                del self._groups[key]
        return min(self._groups, key=lambda key: self._groups[key][0].arrived, default=None)

    def _fill(self, key: Any) -> list[_Piece]:
        group, pieces, free = self._groups[key], [], self.batch
        while group and free:
            request = group[0]
            if request.taken == 0 and not request.future.set_running_or_notify_cancel():
                self._queued -= group.popleft().rows
                continue
            count = min(free, request.rows - request.taken)
            if request.future.done():  # a part of it failed: the rest need not run
                count = request.rows - request.taken
            else:
                pieces.append((request, request.taken, request.taken + count))
                free -= count
            request.taken += count
            self._queued -= count
            if request.taken == request.rows:
                group.popleft()
        self._change.notify_all()
        return pieces

    def _serve(self, runner: Runner, pieces: list[_Piece], stream: Any) -> None:
        if not pieces:
            return
        try:
            parts = self._run(runner, pieces, stream)
        except Exception as error:
            if len(pieces) == 1:
                self._fail(pieces[0][0], error)
            else:
                for piece in pieces:  # so that one bad request does not fail those that shared its batch
                    self._serve(runner, [piece], stream)
            return
        for piece, part in zip(pieces, parts, strict=True):
            self._answer(piece, part)

    def _run(self, runner: Runner, pieces: list[_Piece], stream: Any) -> list[Arrays]:
        rows = sum(stop - start for _, start, stop in pieces)
        size = smallest(self.sizes, rows)
        for request, _, _ in pieces:
            device.wait(stream, request.ready)
        axes = self._axes
        feeds = {
            name: axes.join(name, [axes.cut(name, one.feeds[name], start, stop) for one, start, stop in pieces], size)
            for name in axes.ports
        }
        apart = axes.apart(runner({**feeds, **axes.shared}), size)
        device.finish(stream, feeds.values())
        with self._change:
            self.statistics.batches += 1
            self.statistics.rows += rows
            self.statistics.padding += size - rows
        parts, at = [], 0
        for _, start, stop in pieces:
            parts.append(apart(at, at + stop - start))
            at += stop - start
        return parts

    def _answer(self, piece: _Piece, part: Arrays) -> None:
        request, start, stop = piece
        with self._change:
            request.parts[start] = part
            request.answered += stop - start
            if request.answered < request.rows or request.future.done():
                return
        try:
            found = [request.parts[at] for at in sorted(request.parts)]
            whole = found[0]
            if len(found) > 1:
                whole = {name: concatenate([one[name] for one in found], self._axes.axis[name]) for name in found[0]}
        except Exception as error:
            self._fail(request, error)
            return
        request.parts = {}
        request.future.set_result(whole)

    def _fail(self, request: _Request, error: Exception) -> None:
        with self._change:
            if request.future.done():
                return
        failed = error if isinstance(error, GraphoptError) else GraphoptError(f"{type(error).__name__}: {error}")
        failed.__cause__ = error if failed is not error else None
        request.future.set_exception(failed)
