"""The tensors of a .tflite graph as ONNX values: as stored, as real numbers, channels last or channels first.

    real = DequantizeLinear(stored, scale, zero)         stored = QuantizeLinear(real, scale, zero)

Convolutions want channels first. A value may stand in both orders; a missing one is made when it is asked for, so
that a chain of image operators holds no Transpose.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from graphopt.errors import ModelError

from .emit import Builder
from .reader import Array, File, Graph, Operator, Quant, Tensor

FIRST = (0, 3, 1, 2)
"""The order of dims that makes channels last (N, H, W, C) channels first (N, C, H, W)."""
LAST = (0, 2, 3, 1)


@dataclass
class _Forms:
    """Names of the same value. stored: of the file's dtype; last and first: real numbers in the two orders."""

    stored: str = ""
    last: str = ""
    first: str = ""


@dataclass
class Scope:
    """One graph on its way. `source` names the file in errors."""

    file: File
    graph: Graph
    build: Builder
    source: str
    forms: dict[int, _Forms] = field(default_factory=dict)
    depth: int = 0

    def tensor(self, index: int) -> Tensor:
        return self.graph.tensors[index]

    def rank(self, index: int) -> int:
        return len(self.graph.tensors[index].dims)

    def error(self, operator: Operator, what: str, hint: str = "") -> ModelError:
        """An error that names the operator."""
        made = self.tensor(operator.outputs[0]).name if operator.outputs else ""
        return ModelError(
            f"{operator.op} (operator {operator.number}, which makes {made!r}): {what}", where=self.source, hint=hint
        )

    def bind(self, index: int, stored: str) -> None:
        """Says what holds a tensor as it is stored."""
        self.forms[index] = _Forms(stored=stored)

    def const(self, index: int) -> Array | None:
        """The real numbers of a constant; of a computed value that is known, too."""
        tensor = self.tensor(index)
        if index in self.forms:
            forms = self.forms[index]
            name = forms.last or ("" if tensor.quant else forms.stored)
            return self.build.value(name) if name else None
        if tensor.data is None:
            return None
        return tensor.data if tensor.quant is None else dequantized(tensor.data, tensor.quant)

    def is_const(self, index: int) -> bool:
        return index not in self.forms and self.tensor(index).data is not None

    def _held(self, index: int) -> _Forms:
        if index not in self.forms:
            tensor = self.tensor(index)
            if tensor.data is None:
                what = f"tensor {tensor.name!r} is read before anything writes it"
                hint = "stateful models (variables) have no counterpart in ONNX" if tensor.is_variable else ""
                raise ModelError(what, where=self.source, hint=hint)
            self.forms[index] = _Forms(stored=self.build.const(tensor.data, tensor.name))
        return self.forms[index]

    def stored(self, index: int) -> str:
        """The value as the file stores it: integers where it is quantized."""
        forms, tensor = self._held(index), self.tensor(index)
        if not forms.stored:
            real = self.real(index)
            forms.stored = real if tensor.quant is None else self._quantize(real, tensor, tensor.quant)
        return forms.stored

    def real(self, index: int) -> str:
        """The value as real numbers, in the file's order of dims."""
        if index < 0:
            return ""
        forms, tensor = self._held(index), self.tensor(index)
        if not forms.last:
            if forms.first:
                forms.last = self.build.transpose(forms.first, *LAST)
            else:
                forms.last = (
                    forms.stored if tensor.quant is None else self._dequantize(forms.stored, tensor, tensor.quant)
                )
        return forms.last

    def first(self, index: int) -> str:
        """The value as real numbers, channels first; of rank 4."""
        forms = self._held(index)
        if not forms.first:
            forms.first = self.build.transpose(self.real(index), *FIRST)
        return forms.first

    def is_first(self, indices: Sequence[int]) -> bool:
        """Whether all of rank 4 that are computed are there channels first, and at least one is."""
        found = [self.forms[i].first != "" for i in indices if i in self.forms and self.rank(i) == 4]
        return bool(found) and all(found)

    def put(self, index: int, value: str, first: bool = False) -> None:
        """Says which real numbers an operator gave; quantized tensors are rounded to their steps."""
        tensor = self.tensor(index)
        if tensor.quant is None:
            self.forms[index] = _Forms(first=value) if first else _Forms(last=value)
            return
        stored = self._quantize(value, tensor, tensor.quant)
        real = self._dequantize(stored, tensor, tensor.quant)
        self.forms[index] = _Forms(first=real) if first else _Forms(stored, real)

    def alias(self, index: int, other: int) -> None:
        """Says that a tensor is another one."""
        self.forms[index] = self._held(other)

    def _quantize(self, real: str, tensor: Tensor, quant: Quant) -> str:
        if tensor.dtype == np.int32:
            steps = self.build("Round", self.build("Div", real, self.build.float(float(quant.scale[0]))))
            return self.build.cast(steps, np.int32)
        axis = None if quant.per_tensor else quant.axis
        return self.build("QuantizeLinear", real, *self.scales(quant, tensor.dtype), axis=axis)

    def _dequantize(self, stored: str, tensor: Tensor, quant: Quant) -> str:
        if tensor.dtype == np.int32:  # biases, whose scale is a product of two others
            known = self.build.value(stored)
            if known is not None:
                return self.build.const(dequantized(known, quant), stored)
            return self.build("Mul", self.build.cast(stored, np.float32), self.build.float(float(quant.scale[0])))
        axis = None if quant.per_tensor else quant.axis
        return self.build("DequantizeLinear", stored, *self.scales(quant, tensor.dtype), axis=axis)

    def weight(self, index: int, *perm: int) -> str:
        """Real numbers with their dims in this order; of a constant, what is stored is permuted."""
        tensor = self.tensor(index)
        if tensor.quant is None or not self.is_const(index) or tensor.dtype == np.int32:
            return self.build.transpose(self.real(index), *perm)
        assert tensor.data is not None
        stored = self.build.const(tensor.data.transpose(perm), tensor.name)
        moved = Quant(tensor.quant.scale, tensor.quant.zero, perm.index(tensor.quant.axis))
        return self._dequantize(stored, tensor, moved)

    def scales(self, quant: Quant, dtype: np.dtype[np.generic]) -> tuple[str, str]:
        """The names of scale and zero point."""
        shape = () if quant.per_tensor else quant.scale.shape
        return self.build.const(quant.scale.reshape(shape)), self.build.const(quant.zero.astype(dtype).reshape(shape))


def dequantized(data: Array, quant: Quant) -> Array:
    """(data - zero) * scale, in float32 with one rounding."""
    shape = [1] * data.ndim
    if not quant.per_tensor:
        shape[quant.axis] = -1
    scale, zero = quant.scale.astype(np.float64).reshape(shape), quant.zero.reshape(shape)
    if data.ndim == 0:
        scale, zero = scale.reshape(()), zero.reshape(())
    return np.asarray((data.astype(np.int64) - zero) * scale, np.float32)
