"""A layer's kernel between engines: called as its plugin would be, over memory that is planned for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from graphopt.config import Dims
from graphopt.errors import GraphoptError
from graphopt.layers import buffers
from graphopt.layers.facts import outputs_of
from graphopt.layers.layer import Layer
from graphopt.layers.specification import sizes_of, upper
from graphopt.layers.tensor import Size, Tensor

from .container import KernelEntry


class KernelCall:
    """A layer's kernel for inputs of these dtypes and shapes. Raises GraphoptError where `infer` fails."""

    def __init__(self, entry: KernelEntry, cls: type[Layer], given: Mapping[str, Tensor]) -> None:
        self.entry, self.layer = entry, cls(**entry.attributes)
        self.tactic = next(iter(self.layer.tactics()), 0)
        self.reshape(given)
        self.scratch_bytes = int(self.layer.workspace(*given.values(), *map(_largest, self.outputs)))

    def reshape(self, given: Mapping[str, Tensor]) -> None:
        """Be called with inputs of these shapes from now on; scratch memory stays that of the first ones."""
        self.given = dict(given)
        """The inputs that are there, by the layer's names."""
        self.outputs = outputs_of(self.layer, {name: given.get(name) for name in self.layer.inputs})
        self.sizes: list[Size] = sizes_of(self.outputs)
        """Those that only the kernel finds out."""
        self.most: list[Dims] = [upper(one) for one in self.outputs]
        """The largest shape of each output."""
        self._views: tuple[Any, list[Any], dict[str, Any]] | None = None

    def shapes(self, counts: Sequence[int]) -> list[Dims]:
        """The shapes of the outputs, where the sizes have become these. Raises GraphoptError beyond their bounds."""
        for count, size in zip(counts, self.sizes, strict=True):
            if not 0 <= count <= int(size.upper):
                raise GraphoptError(
                    f"layer {self.entry.layer} says that a size is {count}, of at most {int(size.upper)}",
                    where=self.entry.node,
                )

        def real(dim: Any) -> int:
            if not isinstance(dim, Size):
                return int(dim)
            return next(count for count, size in zip(counts, self.sizes, strict=True) if size is dim)

        return [tuple(real(dim) for dim in one.shape) for one in self.outputs]

    def enqueue(self, inputs: Sequence[int], outputs: Sequence[int], scratch: int, stream: Any) -> None:
        """Launch on device addresses: the inputs that are there, the outputs, and one int32 for each size.

        Raises GraphoptError in the layer's name.
        """
        key = (*inputs, *outputs, scratch, self.tactic)
        try:
            if self._views is None or self._views[0] != key:
                self._views = key, *self._arguments(inputs, outputs, scratch)
            arrays, extra = self._views[1:]
            with buffers.stream(stream.ptr):
                if any(0 not in dims for dims in self.most):
                    self.layer.enqueue(*arrays, **extra)
                else:
                    for count in arrays[len(arrays) - len(self.sizes) :]:
                        count.fill(0)
        except GraphoptError:
            raise
        except Exception as error:
            raise GraphoptError(
                f"layer {self.entry.layer}, enqueue(): {type(error).__name__}: {error}", where=self.entry.node
            ) from error

    def _arguments(
        self, inputs: Sequence[int], outputs: Sequence[int], scratch: int
    ) -> tuple[list[Any], dict[str, Any]]:
        views: dict[str, Any] = dict.fromkeys(self.layer.inputs)
        for (name, tensor), pointer in zip(self.given.items(), inputs, strict=True):
            views[name] = buffers.array(pointer, tensor.dtype, tensor.shape)
        kinds = [*((one.dtype, dims) for one, dims in zip(self.outputs, self.most, strict=True))]
        kinds += [(np.dtype(np.int32), ())] * len(self.sizes)
        made = [buffers.array(at, *kind) for at, kind in zip(outputs, kinds, strict=True)]
        extra: dict[str, Any] = {}
        if "workspace" in self.layer.named:
            nbytes = int(self.layer.workspace(*self.given.values(), *map(_largest, self.outputs)))
            extra["workspace"] = buffers.array(scratch, np.uint8, (nbytes,))
        if "tactic" in self.layer.named:
            extra["tactic"] = self.tactic
        return [*views.values(), *made], extra


def _largest(output: Tensor) -> Tensor:
    return Tensor(output.dtype, upper(output))
