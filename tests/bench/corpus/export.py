"""PyTorch modules to ONNX as people export them, with weights that make every rewrite visible."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .store import Feeds, Writer

Dynamic = Mapping[str, Mapping[int, str]]


def lively(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """In eval mode, with statistics and affine weights of norms that are not the neutral ones."""
    random = torch.Generator().manual_seed(seed)

    def draw(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
        return torch.rand(like.shape, generator=random) * (high - low) + low

    with torch.no_grad():
        for part in module.modules():
            mean = getattr(part, "running_mean", None)
            if mean is not None:
                mean.copy_(draw(mean, -0.3, 0.3))
                part.running_var.copy_(draw(mean, 0.5, 1.5))  # type: ignore[union-attr,operator]
            if "Norm" in type(part).__name__:
                for name, low in (("weight", 0.7), ("bias", -0.2)):
                    value = getattr(part, name, None)
                    if isinstance(value, torch.Tensor):
                        value.copy_(draw(value, low, low + (0.6 if name == "weight" else 0.4)))
            for name in ("gamma", "layer_scale", "lambda1"):  # LayerScale starts at 1e-6, which hides its branch
                value = getattr(part, name, None)
                if isinstance(value, torch.Tensor) and value.abs().max() < 1e-3:
                    value.copy_(draw(value, 0.2, 0.6))
    return module.eval()


class Only(torch.nn.Module):
    """The tensors of a Hugging Face model's answer, and named arguments in the order of the exporter."""

    def __init__(self, inner: torch.nn.Module, names: Sequence[str], **fixed: Any) -> None:
        super().__init__()
        self.inner = inner
        self.names = tuple(names)
        self.fixed = fixed
        self.__signature__ = None

    def forward(self, *args: torch.Tensor) -> Any:
        found = self.inner(**dict(zip(self.names, args, strict=True)), **self.fixed, return_dict=False)
        return tuple(value for value in found if isinstance(value, torch.Tensor)) if isinstance(found, tuple) else found


def torchscript(
    build: Callable[[], torch.nn.Module],
    feeds: Callable[[], Feeds],
    opset: int = 17,
    dynamic: Dynamic | None = None,
    fold: bool = False,
    half: bool = False,
) -> Writer:
    """The TorchScript exporter; its own constant folding off unless fold."""
    return lambda path: _export(
        path, build, feeds(), opset, dynamic, half, {"dynamo": False, "do_constant_folding": fold}
    )


def dynamo(
    build: Callable[[], torch.nn.Module],
    feeds: Callable[[], Feeds],
    opset: int = 18,
    dynamic: Dynamic | None = None,
    optimize: bool = True,
    half: bool = False,
) -> Writer:
    """The exporter over torch.export."""
    return lambda path: _export(path, build, feeds(), opset, dynamic, half, {"dynamo": True, "optimize": optimize})


def _export(
    path: Path,
    build: Callable[[], torch.nn.Module],
    feeds: Feeds,
    opset: int,
    dynamic: Dynamic | None,
    half: bool,
    how: dict[str, Any],
) -> Feeds:
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    module = lively(build())
    if half:
        module = module.half()
        feeds = {k: v.astype(np.float16) if v.dtype == np.float32 else v for k, v in feeds.items()}
    args = tuple(torch.from_numpy(np.asarray(value)) for value in feeds.values())
    if how["dynamo"]:
        how = {**how, "external_data": False, "verbose": False}
        if dynamic:
            how["dynamic_shapes"] = _shapes(module, feeds, dynamic)
    elif dynamic:
        how["dynamic_axes"] = {name: dict(axes) for name, axes in dynamic.items()}
    with torch.no_grad():
        torch.onnx.export(module, args, path, input_names=list(feeds), opset_version=opset, **how)
    return feeds


def _shapes(module: torch.nn.Module, feeds: Feeds, dynamic: Dynamic) -> Any:
    dims: dict[str, Any] = {}
    each = [
        {axis: dims.setdefault(symbol, torch.export.Dim.DYNAMIC) for axis, symbol in dynamic.get(name, {}).items()}
        for name in feeds
    ]
    kinds = {p.kind for p in inspect.signature(module.forward).parameters.values()}
    return (tuple(each),) if inspect.Parameter.VAR_POSITIONAL in kinds else tuple(each)
