"""graphopt cache: the engines that were built before."""

from __future__ import annotations

from typing import Annotated

import typer

from .arguments import Json
from .console import SCHEMA_VERSION, failures, print_json, progress, stdout

cache_app = typer.Typer(
    help="The engines that were built before: list them, check them, make room.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    rich_markup_mode="rich",
)
Size = Annotated[
    str | None,
    typer.Option("--size", metavar="SIZE", help="Keep this much, as 5G; 0 drops all. The limit if not given.",
                 show_default=False),
]  # fmt: skip


@cache_app.command("list")
def list_engines(as_json: Json = False) -> None:
    """List the engines of the cache, the one that was asked for last first."""
    with failures(as_json):
        from .engines.store import Store, age
        from .report.units import several, size

        store = Store()
        found = store.entries()
        if as_json:
            print_json(
                {
                    "schema_version": SCHEMA_VERSION,
                    "folder": str(store.root),
                    "limit_bytes": store.limit_bytes,
                    "engines": [one.to_json() for one in found],
                }
            )
            return
        from rich.table import Table

        table = Table("key", "source", "size", "built in", "by", "last used", box=None)
        for one in found:
            about = one.to_json()
            table.add_row(
                one.key[:12], about["source"], size(one.bytes), f"{about['seconds']:.1f} s",
                f"{about['backend']} {about['version']}", age(one.used),
            )  # fmt: skip
        if found:
            stdout().print(table)
        total = sum(one.bytes for one in found)
        stdout().print(
            f"{several(len(found), 'engine')}, {size(total)} of {size(store.limit_bytes)}, in {store.root}",
            markup=False,
        )


@cache_app.command()
def verify(as_json: Json = False) -> None:
    """Read every engine of the cache; drop those whose bytes are not what was stored. Exit code 1 if there was one."""
    with failures(as_json):
        from .engines.store import Store
        from .report.units import several

        store = Store()
        with progress(as_json) as show:
            found = store.verify(show)
        wrong = [(one, why) for one, why in found if why]
        kept = {one.key for one, _ in wrong if not store.drop(one.key)}
        if as_json:
            damaged = [{"key": one.key, "why": why} for one, why in wrong]
            print_json({"schema_version": SCHEMA_VERSION, "checked": len(found), "damaged": damaged})
        else:
            for one, why in wrong:
                stdout().print(
                    f"{one.key[:12]}: {why}; {'it cannot be removed' if one.key in kept else 'dropped'}", markup=False
                )
            stdout().print(f"{several(len(found), 'engine')} read, {len(wrong)} damaged", markup=False)
        if wrong:
            raise typer.Exit(1)


@cache_app.command()
def prune(size: Size = None, as_json: Json = False) -> None:
    """Drop the engines that were not asked for longest, until the rest is within the limit."""
    with failures(as_json):
        from .engines.store import Store, parse_bytes
        from .report.units import several
        from .report.units import size as text

        store = Store()
        dropped = store.prune(store.limit_bytes if size is None else parse_bytes(size))
        freed = sum(one.bytes for one in dropped)
        if as_json:
            print_json({"schema_version": SCHEMA_VERSION, "dropped": [one.key for one in dropped], "bytes": freed})
        else:
            stdout().print(f"{several(len(dropped), 'engine')} dropped, {text(freed)} freed", markup=False)
