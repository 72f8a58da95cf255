"""Which importers there are, and whether what they need is installed."""

from __future__ import annotations

import re
from importlib import metadata
from typing import Any

from graphopt.importer import Importer


def needs(extra: str) -> dict[str, str]:
    """{distribution: its version, '' if it is not installed} of 'graphopt[torch]', or of 'jax2onnx flax'."""
    found: dict[str, str] = {}
    for word in extra.split():
        name, _, chosen = word.partition("[")
        names = [name]
        if chosen:
            names = [_distribution(one) for one in _requires(name) if _of_extra(one, chosen.rstrip("]"))] or [word]
        found.update({one: _version(one) for one in names})
    return found


def importer_json(one: Importer) -> dict[str, Any]:
    """What the list of importers says about one."""
    found = needs(one.extra)
    return {
        "name": one.name,
        "suffixes": list(one.suffixes),
        "also": list(one.also),
        "extra": one.extra,
        "installed": all(found.values()),
        "packages": found,
        "options": dict(one.options),
    }


def _requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        return []


def _of_extra(requirement: str, extra: str) -> bool:
    return re.search(rf"""extra\s*==\s*['"]{re.escape(extra)}['"]""", requirement) is not None


def _distribution(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    return found[0] if found else requirement


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""
