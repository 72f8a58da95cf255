"""PyTorch: modules by `module:callable`, exported programs (.pt2), TorchScript (.pt)."""

from __future__ import annotations

from pathlib import Path

import graphopt
from graphopt.importer import Imported, Importer, ImportRequest

from .places import is_torch_source

OPTIONS = {
    "kwargs": 'keyword arguments of the callable, as JSON: {"num_classes": 10}',
    "weights": "a file of weights to load into the module: state_dict (.pt, .pth) or .safetensors",
    "modules": "modules to import first, with commas: they register operators",
    "dtypes": "dtypes of example inputs: ids=int64,x=float16",
    "exporter": "auto, dynamo or torchscript",
}


class Torch(Importer):
    """PyTorch's way in."""

    name = "torch"
    suffixes = (".pt2", ".pt", ".pth", ".torchscript")
    also = ("net.py:make", "package.nets:make")
    extra = "graphopt[torch]"
    options = OPTIONS

    def accepts(self, source: str) -> bool:
        return is_torch_source(source)

    def convert(self, request: ImportRequest) -> Imported:
        import torch  # noqa: F401  (the one ImportError that means that PyTorch is missing)

        from .convert import convert

        return convert(request, Path(request.source))


@graphopt.hookimpl
def graphopt_importers() -> list[Torch]:
    return [Torch()]
