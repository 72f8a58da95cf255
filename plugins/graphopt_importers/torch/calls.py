"""A model as a function of arrays: what goes in and comes out, flat, and by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np
import torch
from torch.utils import _pytree as pytree

from graphopt.errors import UsageError

from .examples import Examples
from .sources import Read, _line

_BITS = {torch.bfloat16: (torch.int16, ml_dtypes.bfloat16)}


@dataclass
class Calls:
    """The model with its example arguments: `leaves` are the tensors among them, in order."""

    model: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    leaves: list[torch.Tensor]
    names: list[str]
    """Of the leaves, by parameter and place in it."""
    outputs: list[str]
    expected: list[torch.Tensor]
    parameters: list[str]
    """Names of the positional arguments."""

    def arguments(self, leaves: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with other tensors."""
        flat, spec = pytree.tree_flatten((self.args, self.kwargs))
        rest = iter(leaves)
        args, kwargs = pytree.tree_unflatten([next(rest) if _is_tensor(one) else one for one in flat], spec)
        return tuple(args), dict(kwargs)

    def __call__(self, leaves: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        args, kwargs = self.arguments(leaves)
        with torch.no_grad():
            return tensors(self.model(*args, **kwargs))

    def run(self, feeds: Sequence[np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
        """The outputs as arrays; feeds in the order of the leaves."""
        return [to_numpy(one) for one in self([to_torch(array) for array in feeds])]


def calls(found: Read, examples: Examples) -> Calls:
    """Runs the model once. Raises UsageError where it does not take its example inputs."""
    model = found.thing.module() if found.is_program else found.thing
    paths, _ = pytree.tree_flatten_with_path((examples.args, examples.kwargs))
    known = _positional(found, examples)
    leaves, names = [], []
    for path, leaf in paths:
        if _is_tensor(leaf):
            leaves.append(leaf)
            keys = [_key(part) for part in path[1:]]
            names.append("_".join([known[int(keys[0])] if _key(path[0]) == "0" else keys[0], *keys[1:]]))
    made = Calls(model, examples.args, examples.kwargs, leaves, names, [], [], known)
    shapes = ", ".join(f"{name} {_text(leaf)}" for name, leaf in zip(names, leaves, strict=True))
    args, kwargs = made.arguments([leaf.clone() for leaf in leaves])
    try:
        with torch.no_grad():
            result = model(*args, **kwargs)
    except Exception as error:
        raise UsageError(
            f"the model itself does not run with these inputs ({shapes}): {type(error).__name__}: {_line(error)}",
            where="--shapes or --inputs",
        ) from error
    made.outputs = _output_names(result)
    made.expected = tensors(result)
    if not made.expected:
        raise UsageError(f"the model returns no tensor but {type(result).__name__}", where="its forward")
    return made


def _positional(found: Read, examples: Examples) -> list[str]:
    from .examples import parameters

    names = [one.name for one in parameters(found)]
    return [*names, *(f"args_{index}" for index in range(len(names), len(examples.args)))]


def tensors(result: Any) -> list[torch.Tensor]:
    """The tensors in whatever a model returns, in order."""
    return [one for one in pytree.tree_leaves(result) if _is_tensor(one)]


def _output_names(result: Any) -> list[str]:
    """'logits' of {'logits': y}, 'output' of y, 'output_0' of (y, z)."""
    paths, _ = pytree.tree_flatten_with_path(result)
    names: list[str] = []
    for path, leaf in paths:
        if _is_tensor(leaf):
            word = "_".join(_key(part) for part in path)
            word = f"output_{word}" if word[:1].isdigit() else word or "output"
            names.append(word if word not in names else f"{word}_{len(names)}")
    return names


def _key(part: Any) -> str:
    for attribute in ("idx", "key", "name"):
        if hasattr(part, attribute):
            return str(getattr(part, attribute))
    return str(part)


def _is_tensor(value: object) -> bool:
    return isinstance(value, torch.Tensor)


def _text(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {'x'.join(map(str, tensor.shape)) or 'scalar'}"


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """A tensor as an array."""
    plain = tensor.detach().cpu().contiguous()
    if plain.dtype in _BITS:
        bits, dtype = _BITS[plain.dtype]
        return np.asarray(plain.view(bits).numpy().view(dtype))
    return np.array(plain.numpy())


def to_torch(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """An array as a tensor of its own memory."""
    for dtype, (bits, wide) in _BITS.items():
        if array.dtype == wide:
            return torch.from_numpy(np.array(array).view(np.int16)).view(bits).view(dtype)
    return torch.from_numpy(np.array(array))


def feeds_of(calls: Calls, inputs: Mapping[str, int]) -> dict[str, np.ndarray[Any, Any]]:
    """The example inputs by the names that they have in the ONNX model."""
    return {name: to_numpy(calls.leaves[index]) for name, index in inputs.items()}
