"""What a layer author writes: one class that says what a custom operator means, and how a GPU computes it.

From it are derived: the patterns that find it in a model, the ONNX model-local function that stands for it there
(onnxruntime and TensorRT-RTX run that), the TensorRT plugin (IPluginV3 and its creator), shape inference, and the
conformance suite (`graphopt check-layer MODULE:Layer`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from graphopt.errors import PluginError

from .tensor import Tensor

DOMAIN = "graphopt"
"""The domain of layer calls in a model, and the namespace of their TensorRT creators."""

KINDS: dict[str, type] = {"float": float, "int": int, "bool": bool, "str": str, "tuple": tuple}


class Layer:
    """A custom operator, declared once.

    The class's name is the operator's name and starts with `Fused`. The docstring's first line is the equation, then
    shapes, dtypes and limits. Class attributes that are annotated and have a default (float, int, bool, str, tuple of
    ints or floats) are the operator's *attributes*: each is at once the constant captured from the model, the ONNX
    attribute, the plugin field, and what `enqueue` reads as `self.name`. `FusedX(epsilon=1e-5)` sets them.

    Inputs are the parameters of `body` after `op`; one with the default None is optional, and is None where absent.
    Outputs are the parameters of `enqueue` after the inputs (as many as `body` returns).
    """

    dtypes: ClassVar[Sequence[str]] = ("float32", "float16", "bfloat16")
    """What the layer's dtype T may be: every input has it, but for those in `types`."""
    types: ClassVar[Mapping[str, str | Sequence[str]]] = {}
    """Inputs of a dtype other than T: `{"indices": "int64", "scale": ("float32", "float16")}`.
    Low-precision I/O is no special case: `dtypes = ("int8",)` or "float8_e4m3fn", the scales are inputs or attributes,
    and the body begins with `op.DequantizeLinear(x, scale)` and ends with `op.QuantizeLinear(y, scale)`."""
    shapes: ClassVar[Mapping[str, str]] = {}
    """What `enqueue` demands of the inputs' shapes: `{"x": "... columns", "weight": "columns"}`. A name is one size
    wherever it stands, a number is itself, a leading `...` is any number of axes (the same sizes in every input).
    Proved from the model before a call is placed; the conformance suite makes its inputs from it. An input that is not
    named may have any shape: then `check` must say what the kernel needs."""
    ops: ClassVar[Sequence[str]] = ()
    """Operators of which a model must hold one if it holds the layer in any spelling; in others the layer is not looked
    for, which saves the tracing. Not needed where each spelling is a single operator."""
    portable: ClassVar[bool] = True
    """Whether TensorRT can build the body. If not, the layer runs only as plugin (or segment)."""
    in_place: ClassVar[Mapping[str, str]] = {}
    """Output -> input whose buffer it shares under TensorRT (IPluginV3OneBuildV2): `{"y": "x"}`. Outside TensorRT the
    two may be different buffers: `enqueue` is right in both cases."""
    variants: ClassVar[Sequence[Mapping[str, Any]]] = ({},)
    """Attribute values that Python inspects while `body` is traced (`if self.bias:`, `range(self.axes)`): each mapping
    is traced by itself and has a function of its own, named `FusedX_<hash>`. Attributes that no variant fixes are
    symbolic in `body`: they may be operands (`mean + self.epsilon`), elements of operands (`[self.axis]`) and ONNX
    attributes (`axis=self.axis`); anything else raises an error that says so."""
    deterministic: ClassVar[bool] = True
    """Whether equal inputs give equal bits (no atomic additions of floats)."""
    torch_op: ClassVar[str] = ""
    """The PyTorch operator that is this layer: "acme::fused_square". A model that calls it can then be imported: the
    call becomes a call of the layer, whose body stands for it where no kernel runs. Its tensors are the layer's inputs
    and its other arguments the attributes, by name, or, where names differ, tensors in order."""
    cases: ClassVar[Sequence[Mapping[str, Any]]] = ()
    """More sizes for the conformance suite and `bench-layer`: `({"...": (8, 128), "columns": 768},)`; keys may also be
    attributes. Those the suite makes of `shapes` (empty, one, odd, large) are always there."""

    def __init__(self, **attributes: Any) -> None:
        for name, value in attributes.items():
            if name not in self.attributes:
                known = ", ".join(self.attributes) or "none"
                raise PluginError(f"{type(self).__name__} has no attribute {name!r}", hint=f"attributes: {known}")
            object.__setattr__(self, name, value)

    # -- what an author writes ---------------------------------------------------------------------------------

    def body(self, op: Any, /, *inputs: Any) -> Any:
        """The meaning: the output, or a tuple of outputs, in operators of ONNX.

        op.Name(operands..., attribute=value, outputs=n): a node, in the newest spelling of the operator (axes as
            operands); older opsets are spelled by graphopt. Operands: inputs, results, None, numbers, lists, arrays.
            A number or list takes the dtype that its slot demands, or that of the operand beside it.
        + - * / and unary minus: Add, Sub, Mul, Div, Neg.
        op.float32(x), op.float16(x), op.int64(x), ...: Cast. op.like(a, x): `a` (also a number) in the dtype of x.
        op.const(values, dtype): a constant.
        op.opset: the model's opset.

        It says the accumulation dtype: `wide = op.float32(x)` if the kernel accumulates in float32. What cannot be said
        at the model's opset raises `graphopt.Skip(reason)`, by itself where an operator is missing.
        """
        raise PluginError("a layer needs a body", where=type(self).__name__)

    def patterns(self) -> Sequence[Callable[..., Any]]:
        """The spellings to find: methods like `body`, of the same parameters in the same order, equal to it."""
        return [self.body]

    def infer(self, *inputs: Tensor | None) -> Any:
        """dtype and shape of the output, or a tuple of them: `return x`, `return graphopt.tensor(x.dtype, (n, m))`.

        `x.shape` holds ints and `Dim`s (only arithmetic); see `tensor.py`. Absent inputs are None.
        """
        raise PluginError("a layer needs infer()", where=type(self).__name__)

    def check(self, *inputs: Tensor | None) -> str | None:
        """None, or why this call must not be placed: what `shapes` cannot say. `x.shape`, `x.dtype`, `x.const`.

        A size that is not known is a `Dim`: what is not proved is refused (`isinstance(n, int) and n % 8 == 0`).
        """
        return None

    def tactics(self) -> Sequence[int]:
        """Numbers (> 0, distinct) of the kernels to choose from; the builder times each. () = one kernel."""
        return ()

    def workspace(self, *tensors: Tensor) -> int:
        """Bytes of scratch memory that `enqueue` needs; `tensors`: present inputs, then outputs, at their largest."""
        return 0

    def enqueue(self, *arrays: Any) -> None:
        """Launch the kernels: `enqueue(self, x, weight, y)`, CuPy arrays over raw buffers.

        The current CuPy stream is the caller's (TensorRT's): whatever CuPy launches goes there. Arrays are
        C-contiguous, aligned to 256 bytes under TensorRT but only to their element in general (see `launch.vector`),
        of the dtypes and shapes that `infer` said. Absent inputs are None. Outputs hold garbage: write every element.
        A data-dependent output has the shape of its upper bound, and is read back packed at its real size; its int32
        size array (0-d) follows the outputs.
        It must not allocate (CuPy expressions do: use `out=` and `workspace`), synchronize, or read results back.
        Not called when every output is empty.

        Keyword parameters are passed if they are named: `workspace` (uint8 array of the bytes asked for, 256-byte
        aligned) and `tactic` (an element of `tactics()`; the first when nothing was timed).
        """
        raise PluginError("a layer needs enqueue()", where=type(self).__name__)

    def sample(self, name: str, shape: tuple[int, ...], rng: np.random.Generator) -> np.ndarray[Any, Any] | None:
        """Values of input `name` to test with; None: normal numbers, small integers, fair booleans."""
        return None

    def limit(self, *tensors: Tensor) -> dict[str, float]:
        """What bounds the speed: {'bytes': moved, 'flops': done}; default: every input and output once."""
        return {"bytes": float(sum(t.nbytes for t in tensors))}

    # -- what graphopt reads -----------------------------------------------------------------------------------

    @cached_property
    def name(self) -> str:
        """The operator's name."""
        return type(self).__name__

    @cached_property
    def attributes(self) -> dict[str, Any]:
        """Names and defaults of the attributes, in the order of declaration, base classes first."""
        return dict(_attributes(type(self)))

    @property
    def values(self) -> dict[str, Any]:
        """The attributes' values."""
        return {name: getattr(self, name) for name in self.attributes}

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs."""
        return tuple(p.name for p in _parameters(self.body)[1:])

    @cached_property
    def optional(self) -> tuple[str, ...]:
        """Names of the inputs that may be absent."""
        return tuple(p.name for p in _parameters(self.body)[1:] if p.default is None)

    @cached_property
    def outputs(self) -> tuple[str, ...]:
        """Names of what `enqueue` writes (sizes of data-dependent outputs included)."""
        named = [p.name for p in _parameters(self.enqueue) if p.name not in ("workspace", "tactic")]
        return tuple(named[len(self.inputs) :])

    @cached_property
    def named(self) -> frozenset[str]:
        """Which of `workspace` and `tactic` enqueue wants."""
        return frozenset(p.name for p in _parameters(self.enqueue) if p.name in ("workspace", "tactic"))

    def __repr__(self) -> str:
        inner = ", ".join(f"{name}={value!r}" for name, value in self.values.items())
        return f"{self.name}({inner})"


def _parameters(function: Callable[..., Any]) -> list[inspect.Parameter]:
    found = list(inspect.signature(function).parameters.values())
    for parameter in found:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            where = getattr(function, "__qualname__", repr(function))
            raise PluginError(f"*{parameter.name}: a layer names each of its inputs and outputs", where=where)
    return found


def _attributes(cls: type) -> Iterator[tuple[str, Any]]:
    for base in reversed(cls.__mro__):
        if base in (object, Layer):
            continue
        for name, kind in inspect.get_annotations(base).items():
            text = kind if isinstance(kind, str) else getattr(kind, "__name__", str(kind))
            if "ClassVar" in str(kind) or name.startswith("_"):
                continue
            where = f"{base.__name__}.{name}"
            root = text.split("[")[0]
            if root not in KINDS:
                raise PluginError(f"an attribute cannot be of type {text}", where=where, hint=", ".join(KINDS))
            if name not in base.__dict__:
                raise PluginError("an attribute needs a default", where=where)
            if base.__dict__[name] == ():
                hint = "give the default elements, as many as the operand usually has"
                raise PluginError("an empty tuple says neither int nor float", where=where, hint=hint)
            yield name, base.__dict__[name]
