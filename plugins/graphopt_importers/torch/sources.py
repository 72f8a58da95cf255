"""What a source is, and how it is read without running what a pickle says."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from graphopt.errors import GraphoptError, ModelError, UsageError
from graphopt.named import import_module, named, split, users_error

_MAKE = "write a function that makes the network and loads them, as in docs/importers.md, and name it: net.py:make"


@dataclass
class Read:
    """A module, a TorchScript module or an exported program; and example inputs if the source has some."""

    thing: Any
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    is_program: bool = False
    is_script: bool = False
    notes: list[str] = field(default_factory=list)


def read(source: str, options: Mapping[str, str]) -> Read:
    """The source, on the CPU and in evaluation mode. Raises ModelError, UsageError."""
    for name in filter(None, options.get("modules", "").split(",")):
        import_module(name)
    parts = split(source)
    if parts is not None and not (Path(source).is_file() and not source.endswith(".py")):
        found = _called(source, options)
    else:
        found = _file(Path(source))
        if "kwargs" in options:
            raise UsageError("a file has no keyword arguments", where="--import-option kwargs")
    if "weights" in options:
        _load_weights(found, options["weights"])
    if isinstance(found.thing, torch.nn.Module):
        found.thing.eval()
        for parameter in found.thing.parameters():
            parameter.requires_grad_(False)
    return found


def _file(path: Path) -> Read:
    where = str(path)
    if not path.is_file():
        raise ModelError("no such file" if not path.exists() else "it is no file", where=where)
    if not zipfile.is_zipfile(path):
        if path.read_bytes()[:2] == b"\x80\x02":
            raise _no_network(path)
        raise ModelError("it is no file of PyTorch's, or truncated", where=where)
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
    inner = {name.partition("/")[2] for name in names}
    if any(name.startswith("models/") for name in inner) or "serialized_exported_program.json" in names:
        return _program(path, inner)
    if any(name.startswith("code/") for name in inner):
        return _script(path)
    if "data.pkl" in inner:
        raise _no_network(path)
    raise ModelError("a zip archive, but neither an exported program nor TorchScript", where=where)


def _program(path: Path, inner: set[str]) -> Read:
    if any("opaque" in Path(name).name for name in inner):
        raise ModelError("it holds pickled Python objects, which are not loaded", where=str(path))
    before = os.environ.get("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
    os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = "1"
    try:
        program = torch.export.load(str(path))
    except Exception as error:
        raise ModelError(
            f"torch {torch.__version__} cannot load this exported program: {_line(error)}", where=str(path),
            hint=_operators(error) or _classes(path) or "was it saved by a newer version of torch?",
        ) from error  # fmt: skip
    finally:
        os.environ.pop("TORCH_FORCE_WEIGHTS_ONLY_LOAD")
        if before is not None:
            os.environ["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] = before
    args, kwargs = program.example_inputs or ((), {})
    return Read(program, tuple(args), dict(kwargs), is_program=True)


def _classes(path: Path) -> str:
    """Which modules define the classes that go in or come out: torch must know them before it reads the program."""
    with zipfile.ZipFile(path) as archive:
        text = "".join(archive.read(name).decode(errors="replace") for name in archive.namelist() if _is_graph(name))
    named = re.findall(r'\\"type\\": \\"([A-Za-z_][\w.]*)\.\w+\\"', text)
    modules = [
        name for name in dict.fromkeys(named) if name.partition(".")[0] not in ("builtins", "collections", "torch")
    ]
    if not modules:
        return ""
    return (
        f"its arguments or results are of classes of {', '.join(modules)}: --import-option modules={','.join(modules)}"
    )


def _is_graph(name: str) -> bool:
    return "/models/" in name and name.endswith(".json")


def _script(path: Path) -> Read:
    try:
        return Read(torch.jit.load(str(path), map_location="cpu"), is_script=True)
    except Exception as error:
        raise ModelError(
            f"torch {torch.__version__} cannot load this TorchScript: {_line(error)}",
            where=str(path),
            hint=_operators(error),
        ) from error


def _operators(error: Exception) -> str:
    text = str(error)
    unknown = "Unknown builtin op" in text or "does not exist" in text or "has no attribute" in text
    return "an operator is not registered: import its module with --import-option modules=NAME" if unknown else ""


def _no_network(path: Path) -> ModelError:
    """What a file of torch.save holds; it is read with weights_only, which runs nothing."""
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        classes = ", ".join(dict.fromkeys(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        return ModelError(
            f"it is a pickled Python object{f' ({classes})' if classes else ''}: to read it is to run its code",
            where=str(path),
            hint="if you trust it, load it in a function of your own with torch.load(..., weights_only=False), and "
            "name that: net.py:make; or save it with torch.export.save",
        )
    names = list(found) if isinstance(found, Mapping) else []
    some = f" ({len(names)} entries: {', '.join(map(str, names[:3]))}, ...)" if names else ""
    return ModelError(
        f"it holds weights{some}, not the network that they belong to",
        where=str(path),
        hint=f"name the network, and this file as its weights: net.py:make --import-option weights={path}; or {_MAKE}",
    )


def _called(source: str, options: Mapping[str, str]) -> Read:
    thing: Any = named(source)
    if not isinstance(thing, torch.nn.Module) and callable(thing):
        thing = _call(source, thing, _kwargs(options))
    elif "kwargs" in options:
        raise UsageError(f"{source} is a module already, not something to call", where="--import-option kwargs")
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    if isinstance(thing, tuple) and thing and callable(thing[0]):
        thing, *rest = thing
        for one in rest:
            if isinstance(one, Mapping):
                kwargs = dict(one)
            else:
                args = tuple(one) if isinstance(one, (tuple, list)) else (one,)
    if isinstance(thing, torch.export.ExportedProgram):
        example: Any = thing.example_inputs or ((), {})
        return Read(thing, args or example[0], kwargs or example[1], is_program=True)
    if isinstance(thing, torch.jit.ScriptModule):
        return Read(thing, args, kwargs, is_script=True)
    if not isinstance(thing, torch.nn.Module):
        raise ModelError(
            f"it returned {type(thing).__name__}",
            where=source,
            hint="it is to return a torch.nn.Module, or (module, example inputs)",
        )
    return Read(thing, args, kwargs)


def _kwargs(options: Mapping[str, str]) -> dict[str, Any]:
    text = options.get("kwargs", "{}")
    try:
        found = json.loads(text)
    except ValueError as error:
        raise UsageError(f"it is no JSON: {error}", where="--import-option kwargs", hint=_EXAMPLE) from error
    if not isinstance(found, dict):
        raise UsageError("it is no JSON object", where="--import-option kwargs", hint=_EXAMPLE)
    return found


_EXAMPLE = """write --import-option 'kwargs={"num_classes": 10}'"""


def _call(source: str, make: Callable[..., Any], kwargs: Mapping[str, Any]) -> Any:
    try:
        return make(**kwargs)
    except GraphoptError:
        raise
    except Exception as error:
        hint = "its arguments: --import-option 'kwargs={...}'" if isinstance(error, TypeError) else ""
        raise users_error(error, "it raised", source, hint) from error


def _load_weights(found: Read, file: str) -> None:
    where = f"--import-option weights={file}"
    if found.is_program or found.is_script:
        raise UsageError("this source has its weights already", where=where)
    if not Path(file).is_file():
        raise ModelError("no such file", where=where)
    if file.endswith(".safetensors"):
        from safetensors.torch import load_file

        state: Any = load_file(file)
    else:
        try:
            state = torch.load(file, map_location="cpu", weights_only=True)
        except Exception as error:
            raise ModelError(f"it is no file of weights: {_line(error)}", where=where) from error
    for key in ("state_dict", "model_state_dict", "model", "module"):
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping):
        raise ModelError(f"it holds {type(state).__name__}, no mapping of names to tensors", where=where)
    try:
        missing, unexpected = found.thing.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise ModelError(f"they do not fit the network: {_line(error)}", where=where) from error
    if missing or unexpected:
        words = [f"{len(missing)} weights are missing ({', '.join(missing[:3])}, ...)"] if missing else []
        words += [f"{len(unexpected)} are of no use ({', '.join(unexpected[:3])}, ...)"] if unexpected else []
        raise ModelError(f"they do not fit the network: {'; '.join(words)}", where=where)


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 300 else f"{text[:300]} ..."
