"""How the command line talks: results on standard output, everything else on standard error; failures as exit codes."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .errors import GraphoptError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    import typer
    from rich.console import Console

SCHEMA_VERSION = 1
FAILURE, USAGE, INTERRUPTED, TERMINATED = 1, 2, 130, 143


class Terminated(KeyboardInterrupt):
    """The process was asked to end: what is half done is taken back, as after Ctrl-C."""


def stdout() -> Console:
    from rich.console import Console

    return Console(file=sys.stdout, highlight=False)


def stderr() -> Console:
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False)


def print_json(data: dict[str, Any]) -> None:
    """The one object that --json promises."""
    sys.stdout.write(json.dumps(data, indent=2, allow_nan=False, ensure_ascii=False) + "\n")
    sys.stdout.flush()


def warn(text: str) -> None:
    from rich.markup import escape

    stderr().print(f"[yellow]warning:[/] {escape(text)}", soft_wrap=True)


_FILES: list[str] = []


def options_from(path: str) -> None:
    """Remember the file, or '', that options of this run came from: a mistake may be there."""
    _FILES[:] = [path] if path else []


def fail(what: str, *, where: str = "", hint: str = "", kind: str, code: int, as_json: bool) -> typer.Exit:
    """Say what went wrong, in one way for people and programs; the exception that ends the command."""
    import typer
    from rich.text import Text

    if kind == "UsageError" and _FILES and _FILES[0] not in where:
        hint = "\n".join(filter(None, (hint, f"options were also taken from {_FILES[0]}")))
    line = Text("error: ", style="bold red")
    line.append(f"{where}: " if where else "", style="not bold default")
    line.append(what, style="not bold default")
    stderr().print(line, soft_wrap=True)
    if hint:
        stderr().print(Text("  " + hint.replace("\n", "\n  ") if "\n" in hint else f"  {hint}"), soft_wrap=True)
    if as_json:
        error = {"what": what, "where": where, "hint": hint, "kind": kind}
        print_json({"schema_version": SCHEMA_VERSION, "status": "failed", "error": error})
    return typer.Exit(code)


@contextmanager
def failures(as_json: bool) -> Iterator[None]:
    """Whatever is raised inside becomes a message and an exit code."""
    try:
        yield
    except GraphoptError as error:
        kind = type(error).__name__
        raise fail(
            error.what, where=error.where, hint=error.hint, kind=kind, code=error.exit_code, as_json=as_json
        ) from None
    except KeyboardInterrupt as error:
        import typer

        raise typer.Exit(interrupted(error, as_json)) from None
    except BrokenPipeError:
        import typer

        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader is gone: nothing more to tell it
        raise typer.Exit(FAILURE) from None
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space; models pass through a temporary folder too, which TMPDIR names",
            errno.EDQUOT: "the disk quota is used up",
        }
        raise fail(
            error.strerror or str(error),
            where=str(error.filename or ""),
            hint=hints.get(error.errno or 0, ""),
            kind="OSError",
            code=FAILURE,
            as_json=as_json,
        ) from None
    except MemoryError:
        raise fail(
            "there is not enough memory",
            hint="--verify none needs least",
            kind="MemoryError",
            code=FAILURE,
            as_json=as_json,
        ) from None
    except Exception as error:
        import typer

        if isinstance(error, typer.Exit):
            raise
        hint = "run it again with GRAPHOPT_DEBUG=1 for the traceback, and report it"
        if os.environ.get("GRAPHOPT_DEBUG", "") not in ("", "0"):
            import traceback

            traceback.print_exc()
            hint = ""
        raise fail(
            f"this is a bug in graphopt: {type(error).__name__}: {' '.join(str(error).split())}",
            hint=hint,
            kind=type(error).__name__,
            code=FAILURE,
            as_json=as_json,
        ) from None


def interrupted(error: KeyboardInterrupt, as_json: bool) -> int:
    """Say that the run was ended from outside; the exit code."""
    if isinstance(error, Terminated):
        what, code = "ended by a signal", TERMINATED
    else:
        what, code = "interrupted; nothing was left half-written", INTERRUPTED
    return int(fail(what, kind="Interrupted", code=code, as_json=as_json).exit_code)


def prepare() -> None:
    """A polite kill, or a closed terminal, cleans up like Ctrl-C; no tick mark ends a run on an ASCII terminal."""

    def end(number: int, frame: object) -> None:
        raise Terminated

    for name in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(name) is signal.SIG_DFL:
            signal.signal(name, end)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")


_PHASES = {
    "load": "reading the model",
    "passes": "rewriting",
    "verify": "comparing with the source",
    "bisect": "looking for the change that broke it",
    "count layers": "counting layers",
}


@contextmanager
def progress(quiet: bool) -> Iterator[Callable[[str, int, int], None]]:
    """A callback that shows what is being done, on a terminal; says nothing elsewhere."""
    console = stderr()
    if quiet or not console.is_terminal:
        yield lambda what, done, total: None
        return
    from rich.markup import escape
    from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[steps]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bar:
        task: TaskID = bar.add_task("starting", total=None, steps="")

        def show(what: str, done: int, total: int) -> None:
            steps = f"{done}/{total}" if total else ""
            name = what.removeprefix("import: ") if what.startswith("import: ") else None
            name = name or _PHASES.get(what, f"building: {what}")
            bar.update(task, description=escape(name), completed=done, total=total or None, steps=steps)

        yield show
