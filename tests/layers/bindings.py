"""TensorRT's real Python bindings without NVIDIA's libraries: the native symbols that they look for are stubs.

Run as a script: `python bindings.py FOLDER MAJOR` takes the third party's layer through its life cycle on the
bindings installed in FOLDER, and prints what was found as JSON.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

SYMBOLS = (
    "createInferBuilder_INTERNAL createInferRuntime_INTERNAL createInferRefitter_INTERNAL createNvOnnxParser_INTERNAL "
    "createNvOnnxParserRefitter_INTERNAL getNvOnnxParserVersion getPluginRegistry getBuilderPluginRegistry "
    "initLibNvInferPlugins"
).split()


def load(folder: Path, major: str) -> Any:
    """The module `tensorrt_bindings` of a folder, over stub libraries that are made there."""
    source = folder / "stub.c"
    source.write_text("\n".join(f"void* {name}(void) {{ return 0; }}" for name in SYMBOLS))
    for name in ("nvinfer", "nvinfer_plugin", "nvonnxparser"):
        library = folder / f"lib{name}.so.{major}"
        words = ["gcc", "-shared", "-fPIC", "-o", str(library), f"-Wl,-soname,{library.name}", str(source)]
        subprocess.run(words, check=True)
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, str(folder))
    return importlib.import_module("tensorrt_bindings")


def drive(trt: Any) -> dict[str, Any]:
    """The life cycle of a layer on these interfaces, and what differs from their signatures."""
    from graphopt.layers.host import prepare
    from graphopt.layers.plugin import creator, plugin_class
    from tests.layers.third_party import FusedRootNorm

    found: dict[str, Any] = {"version": trt.__version__, "outputs": {}}
    for dtype in FusedRootNorm.dtypes:
        made = prepare(trt, FusedRootNorm(epsilon=0.5), ("x", "weight"), [(dtype, (2, 3, 64)), (dtype, (64,))])
        found["outputs"][dtype] = [[kind.name, list(shape)] for kind, shape in made.outputs]
        found["epsilon"] = made.plugin.specification.layer.epsilon
    bases = [trt.IPluginV3, trt.IPluginV3OneCore, trt.IPluginV3OneBuildV2, trt.IPluginV3OneRuntime]
    plugin = plugin_class(trt, in_place=True)
    found["derives"] = all(issubclass(plugin, base) for base in bases)
    found["creator"] = isinstance(creator(trt, FusedRootNorm, "FusedRootNorm"), trt.IPluginCreatorV3One)
    found["signatures"] = [text for base in bases for text in differences(base, plugin)]
    found["unknown"] = [
        name for name in vars(plugin)
        if not name.startswith("_") and not any(hasattr(base, name) for base in bases)
    ]  # fmt: skip
    return found


def differences(base: type, made: type) -> list[str]:
    """Methods of a real interface that ours lacks, or takes with another number of arguments."""
    import inspect
    import re

    told = []
    for name in dir(base):
        doc = getattr(getattr(base, name), "__doc__", "") or ""
        signature = re.match(rf"{name}\((.*?)\) -> ", doc, re.DOTALL)
        if name.startswith("_") or signature is None:
            continue
        ours = vars(made).get(name)
        if ours is None:
            told.append(f"{name} is not ours")
            continue
        wanted = len(re.findall(r"(?:^|, )\w+: ", signature[1]))
        if name == "get_aliased_input":
            wanted += 1  # its documentation leaves out self
        count = len(inspect.signature(inspect.unwrap(ours)).parameters)
        if count != wanted:
            told.append(f"{name} takes {count} arguments, theirs {wanted}")
    return told


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))
    print(json.dumps(drive(load(Path(sys.argv[1]), sys.argv[2]))))  # noqa: T201
