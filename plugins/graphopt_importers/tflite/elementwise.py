"""Operators that act on each element."""

from __future__ import annotations

import numpy as np

from .handlers import activated, handles, operands
from .reader import Operator
from .scope import Scope

_UNARY = {
    "ABS": "Abs", "CEIL": "Ceil", "COS": "Cos", "EXP": "Exp", "FLOOR": "Floor", "LOG": "Log", "NEG": "Neg",
    "ROUND": "Round", "SIGN": "Sign", "SIN": "Sin", "SQRT": "Sqrt", "TANH": "Tanh", "LOGISTIC": "Sigmoid",
    "RELU": "Relu", "ELU": "Elu", "LOGICAL_NOT": "Not", "HARD_SWISH": "HardSwish",
}  # fmt: skip
_BINARY = {
    "ADD": "Add", "SUB": "Sub", "MUL": "Mul", "DIV": "Div", "MAXIMUM": "Max", "MINIMUM": "Min", "POW": "Pow",
    "EQUAL": "Equal", "GREATER": "Greater", "GREATER_EQUAL": "GreaterOrEqual", "LESS": "Less",
    "LESS_EQUAL": "LessOrEqual", "LOGICAL_AND": "And", "LOGICAL_OR": "Or", "PRELU": "PRelu",
}  # fmt: skip


@handles(*_UNARY)
def unary(scope: Scope, operator: Operator) -> None:
    (x,), first = operands(scope, operator.inputs[:1])
    scope.put(operator.outputs[0], scope.build(_UNARY[operator.op], x), first)


@handles(*_BINARY)
def binary(scope: Scope, operator: Operator) -> None:
    values, first = operands(scope, operator.inputs[:2])
    made = scope.build(_BINARY[operator.op], *values)
    scope.put(operator.outputs[0], activated(scope, operator, made), first)


@handles("NOT_EQUAL")
def not_equal(scope: Scope, operator: Operator) -> None:
    values, first = operands(scope, operator.inputs[:2])
    scope.put(operator.outputs[0], scope.build("Not", scope.build("Equal", *values)), first)


@handles("SQUARED_DIFFERENCE")
def squared_difference(scope: Scope, operator: Operator) -> None:
    """(x - y)^2"""
    values, first = operands(scope, operator.inputs[:2])
    difference = scope.build("Sub", *values)
    scope.put(operator.outputs[0], scope.build("Mul", difference, difference), first)


@handles("FLOOR_DIV", "FLOOR_MOD")
def floor_division(scope: Scope, operator: Operator) -> None:
    """floor(x / y); x - floor(x / y) * y. Of integers, too: Mod takes the sign of y, as ONNX's fmod=0 does."""
    build = scope.build
    (x, y), first = operands(scope, operator.inputs[:2])
    tensor = scope.tensor(operator.outputs[0])
    if tensor.dtype.kind == "f" or tensor.quant:
        quotient = build("Floor", build("Div", x, y))
        made = quotient if operator.op == "FLOOR_DIV" else build("Sub", x, build("Mul", quotient, y))
    else:
        rest = build("Mod", x, y)
        made = rest if operator.op == "FLOOR_MOD" else build("Div", build("Sub", x, rest), y)
    scope.put(operator.outputs[0], made, first)


@handles("ADD_N")
def add_n(scope: Scope, operator: Operator) -> None:
    values, first = operands(scope, operator.inputs)
    scope.put(operator.outputs[0], scope.build("Sum", *values), first)


@handles("RELU6", "RELU_N1_TO_1", "RELU_0_TO_1")
def clipped(scope: Scope, operator: Operator) -> None:
    least, most = {"RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0), "RELU_0_TO_1": (0.0, 1.0)}[operator.op]
    (x,), first = operands(scope, operator.inputs[:1])
    scope.put(operator.outputs[0], scope.build("Clip", x, scope.build.float(least), scope.build.float(most)), first)


@handles("RSQRT")
def rsqrt(scope: Scope, operator: Operator) -> None:
    """1 / sqrt(x)"""
    (x,), first = operands(scope, operator.inputs[:1])
    scope.put(operator.outputs[0], scope.build("Reciprocal", scope.build("Sqrt", x)), first)


@handles("SQUARE")
def square(scope: Scope, operator: Operator) -> None:
    (x,), first = operands(scope, operator.inputs[:1])
    scope.put(operator.outputs[0], scope.build("Mul", x, x), first)


@handles("LEAKY_RELU")
def leaky_relu(scope: Scope, operator: Operator) -> None:
    (x,), first = operands(scope, operator.inputs[:1])
    scope.put(operator.outputs[0], scope.build("LeakyRelu", x, alpha=float(operator.option("Alpha", 0.0))), first)


@handles("GELU")
def gelu(scope: Scope, operator: Operator) -> None:
    """x * (1 + erf(x / sqrt(2))) / 2; approximate: x * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3))) / 2."""
    build = scope.build
    (x,), first = operands(scope, operator.inputs[:1])
    if operator.option("Approximate", False):
        cube = build("Mul", build("Mul", x, x), x)
        inner = build("Add", x, build("Mul", cube, build.float(0.044715)))
        curve = build("Tanh", build("Mul", inner, build.float(np.sqrt(2 / np.pi))))
    else:
        curve = build("Erf", build("Mul", x, build.float(np.sqrt(0.5))))
    half = build("Mul", x, build.float(0.5))
    scope.put(operator.outputs[0], build("Mul", half, build("Add", curve, build.float(1.0))), first)


@handles("SOFTMAX", "LOG_SOFTMAX")
def softmax(scope: Scope, operator: Operator) -> None:
    """softmax(beta * x) over the last dimension."""
    x = scope.real(operator.inputs[0])
    beta = float(operator.option("Beta", 1.0)) if operator.op == "SOFTMAX" else 1.0
    if beta != 1.0:
        x = scope.build("Mul", x, scope.build.float(beta))
    scope.put(operator.outputs[0], scope.build("Softmax" if operator.op == "SOFTMAX" else "LogSoftmax", x, axis=-1))


@handles("CAST")
def cast(scope: Scope, operator: Operator) -> None:
    """Of quantized tensors, what is stored is cast."""
    target, source = scope.tensor(operator.outputs[0]), scope.tensor(operator.inputs[0])
    if source.quant or target.quant:
        scope.bind(operator.outputs[0], scope.build.cast(scope.stored(operator.inputs[0]), target.dtype))
        return
    (x,), first = operands(scope, operator.inputs[:1])
    scope.put(operator.outputs[0], scope.build.cast(x, target.dtype), first)


@handles("QUANTIZE", "DEQUANTIZE")
def requantize(scope: Scope, operator: Operator) -> None:
    """Real numbers as they are; what the output is rounded to, its own quantization says."""
    source, target = scope.tensor(operator.inputs[0]), scope.tensor(operator.outputs[0])
    (x,), first = operands(scope, operator.inputs[:1])
    if source.quant is None and source.dtype != target.dtype and target.dtype.kind == "f":
        x = scope.build.cast(x, target.dtype)  # weights kept in half precision
    scope.put(operator.outputs[0], x, first)


@handles("SELECT", "SELECT_V2")
def select(scope: Scope, operator: Operator) -> None:
    """where(condition, x, y); a condition of rank 1 of SELECT picks rows."""
    condition, x, y = operator.inputs
    if operator.op == "SELECT" and scope.rank(condition) == 1 and scope.rank(x) > 1:
        shape = (-1, *[1] * (scope.rank(x) - 1))
        values = [scope.build.reshape(scope.real(condition), *shape), scope.real(x), scope.real(y)]
        scope.put(operator.outputs[0], scope.build("Where", *values))
        return
    values, first = operands(scope, operator.inputs)
    scope.put(operator.outputs[0], scope.build("Where", *values), first)


@handles("ZEROS_LIKE")
def zeros_like(scope: Scope, operator: Operator) -> None:
    shape = scope.build("Shape", scope.real(operator.inputs[0]))
    zero = scope.build.const(np.zeros((), scope.tensor(operator.outputs[0]).dtype))
    scope.put(operator.outputs[0], scope.build("Expand", zero, shape))
