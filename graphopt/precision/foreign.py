"""Functions of the user's own, named as MODULE:FUNCTION or FILE.py:FUNCTION."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from typing import Any


def function_of(module: str, name: str) -> Any:
    """An attribute of a module, which may lie in the current folder, or of a file. Raises what importing it raises.

    The folder is looked in last, from then on: an installed command has it not among those where modules are.
    """
    is_file = module.endswith(".py")
    folder = os.path.dirname(os.path.abspath(module)) if is_file else os.getcwd()
    if folder not in sys.path:
        sys.path.append(folder)
    if not is_file:
        return getattr(importlib.import_module(module), name)
    spec = importlib.util.spec_from_file_location(f"graphopt_foreign_{Path(module).stem}", module)
    if spec is None or spec.loader is None or not Path(module).is_file():
        raise FileNotFoundError(f"no such file: {module}")
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return getattr(found, name)
