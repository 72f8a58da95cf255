"""What of the command line is made ready for one call."""

from __future__ import annotations

import copy

import typer

from .errors import GraphoptError
from .project import Typed


def needed(app: typer.Typer, typed: Typed) -> typer.Typer:
    """The program with the called command alone, where no configuration file has to be held against all of them.

    Making all commands ready is a third of the time in which a short one runs.
    """
    names = {
        one.name or one.callback.__name__.replace("_", "-"): one for one in app.registered_commands if one.callback
    }
    called = names.get(typed.words[0]) if typed.words else None
    try:
        if called is None or typed.project is not None:
            return app
    except (GraphoptError, OSError):
        return app
    small = copy.copy(app)
    small.registered_commands, small.registered_groups = [called], []
    return small
