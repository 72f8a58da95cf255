"""What a run ran in."""

from __future__ import annotations

import platform
from importlib import metadata


def environment() -> dict[str, str]:
    """What a build ran in: Python, the machine, and the distributions that its result depends on."""
    wanted = ("graphopt", "onnx", "onnxruntime", "numpy", "onnx_graphsurgeon", "tensorrt", "cupy")
    found = {"python": platform.python_version(), "machine": f"{platform.system()} {platform.machine()}"}
    for one in metadata.distributions():
        name = one.name.replace("-", "_").lower()
        if name.startswith(wanted):
            found[name] = one.version
    return found
