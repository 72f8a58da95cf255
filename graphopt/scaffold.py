"""`graphopt new`: a plugin package that installs, and whose tests pass, as it is."""

from __future__ import annotations

import importlib.util
import keyword
import re
from pathlib import Path

from .errors import UsageError
from .registry import Registry

_TEMPLATES = Path(__file__).parent / "templates"


def new_package(name: str, folder: Path, *, with_pass: bool, with_layer: bool) -> list[Path]:
    """Write the package `name` into folder/name; the files, in order.

    Raises UsageError for a name that is none or taken, or a folder that has something in it.
    """
    if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", name):
        raise UsageError(f"{name!r} is no name for a package", hint="small letters, digits and dashes: my-passes")
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module == "graphopt":
        raise UsageError(f"{name!r} cannot be imported under this name", hint="choose another")
    if importlib.util.find_spec(module) is not None:
        raise UsageError(
            f"a package {module!r} is installed already: this one would hide it", hint="choose another name"
        )
    if taken := {name, f"{name}-layers"} & {one.name for one in Registry().plugins}:
        raise UsageError(f"a plugin {min(taken)!r} is installed already", hint="choose another name")
    root = folder / name
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UsageError("it is there already", where=str(root), hint="choose another name, or remove it")
    title = "".join(part.capitalize() for part in name.split("-"))
    kinds = [kind for kind, wanted in (("pass", with_pass), ("layer", with_layer)) if wanted] or ["pass"]
    files = {"pyproject.toml": "pyproject.toml", "README.md": "README.md"}
    for kind in kinds:
        files[f"src/{module}/{kind}es.py" if kind == "pass" else f"src/{module}/layers.py"] = f"{kind}.py"
        files[f"tests/test_{'passes' if kind == 'pass' else 'layers'}.py"] = f"test_{kind}.py"
    points = {"pass": f'{name} = "{module}.passes"', "layer": f'{name}-layers = "{module}.layers"'}
    filled = {
        "NAME": name,
        "MODULE": module,
        "TITLE": title,
        "ENTRY_POINTS": "\n".join(points[kind] for kind in kinds),
        "WHAT": " and ".join({"pass": "a pass", "layer": "a custom layer"}[kind] for kind in kinds),
        "COMMANDS": "\n".join(_COMMANDS[kind] for kind in kinds).replace("@TITLE@", title).replace("@MODULE@", module),
    }
    written = []
    for path, template in {**files, f"src/{module}/__init__.py": "init.py"}.items():
        text = (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")
        for key, value in filled.items():
            text = text.replace(f"@{key}@", value)
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        written.append(target)
    return sorted(written)


_COMMANDS = {
    "pass": "    graphopt passes                                        # the pass is listed\n"
    "    graphopt optimize model.onnx -o small.onnx",
    "layer": "    graphopt check-layer @MODULE@.layers:Fused@TITLE@ --no-gpu\n"
    "    graphopt optimize model.onnx -o small.onnx --lower always",
}
