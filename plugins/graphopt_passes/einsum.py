"""Einsum: Transposes around it belong into its equation, and where a plainer operator says the same, that stands there.

Counted with TensorRT-RTX 1.6.1's parser: an Einsum is one layer, whatever its equation; so is each operator here.
Numbers are those of numpy.einsum: a letter sums over where the result does not have it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import shapes
from graphopt.ir.edits import Editor, inherit
from graphopt.rewrite.spelling import is_standard
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

Terms = tuple[list[str], str]
"""The letters of each operand, and those of the result."""

FLOATS = ("float16", "float32", "float64")


def terms(equation: Any, operands: int) -> Terms | None:
    """What an equation without an ellipsis says, if it names its result and no letter twice in one term."""
    text = (equation.decode() if isinstance(equation, bytes) else str(equation)).replace(" ", "")
    left, arrow, result = text.partition("->")
    each = left.split(",")
    if not arrow or len(each) != operands or not all(term == "" or term.isalpha() for term in (*each, result)):
        return None
    if any(len(set(term)) != len(term) for term in (*each, result)) or not set(result) <= set(left):
        return None
    return each, result


class _Plainer(graphopt.Rule):
    """Common to the rules below: what the equation says, of operands that ONNX's plain operators take."""

    after = ("transposes-into-einsum",)

    def pattern(self, op: Any, *xs: Any, equation: Any) -> Any:
        return op.Einsum(*xs, equation=equation)

    def said(self, xs: tuple[Value, ...], equation: Any) -> Terms:
        found = terms(equation, len(xs))
        if found is None:
            raise graphopt.Skip("the equation has an ellipsis or a diagonal, or does not name its result")
        if any(x.dtype is None or x.dtype.name not in FLOATS for x in xs):
            raise graphopt.Skip("the operands are no floats that every opset's operators take")
        if any(x.rank is not None and x.rank != len(term) for x, term in zip(xs, found[0], strict=True)):
            raise graphopt.Skip("an operand has another rank than its term")
        return found


class TransposeInsteadOfEinsum(_Plainer):
    """Einsum(x, "ij->ji") = Transpose(x, [1, 0]); "ij->ij" is x."""

    def rewrite(self, op: Any, *xs: Value, equation: Any) -> Any:
        (term, *others), result = self.said(xs, equation)
        if others or sorted(term) != sorted(result):
            raise graphopt.Skip("it sums, or it has more operands than one")
        return xs[0] if term == result else op.Transpose(xs[0], perm=[term.index(letter) for letter in result])


class ReduceSumInsteadOfEinsum(_Plainer):
    """Einsum(x, "ijk->ik") = ReduceSum(x, [1]), where what stays keeps its order."""

    def rewrite(self, op: Any, *xs: Value, equation: Any) -> Any:
        (term, *others), result = self.said(xs, equation)
        if others or term == result or [letter for letter in term if letter in result] != list(result):
            raise graphopt.Skip("it does not sum, turns axes as well, or has more operands than one")
        axes = [place for place, letter in enumerate(term) if letter not in result]
        return op.ReduceSum(xs[0], np.array(axes, np.int64), keepdims=0)


class MulInsteadOfEinsum(_Plainer):
    """Einsum(x, y, "ij,ij->ij") = Mul(x, y)."""

    def rewrite(self, op: Any, *xs: Value, equation: Any) -> Any:
        each, result = self.said(xs, equation)
        if each != [result, result]:
            raise graphopt.Skip("its two operands and its result are not of the same letters")
        return op.Mul(*xs)


class MatMulInsteadOfEinsum(_Plainer):
    """Einsum(x, y, "bij,bjk->bik") = MatMul(x, y), either way round, with any common letters in front.

    The dimensions that are summed over must be known to be equal: an Einsum repeats one of size 1, MatMul does not.
    """

    def rewrite(self, op: Any, *xs: Value, equation: Any) -> Any:
        each, result = self.said(xs, equation)
        if len(each) != 2:
            raise graphopt.Skip("it has not two operands")
        for (x, left), (y, right) in (zip(xs, each, strict=True), zip(xs[::-1], each[::-1], strict=True)):
            if not _is_product(left, right, result):
                continue
            if x.shape is None or y.shape is None or not shapes.same_dim(x.shape[-1], y.shape[-2]):
                raise graphopt.Skip("the dimensions that are summed over may differ")
            return op.MatMul(x, y)
        raise graphopt.Skip("it is no product of matrices as they lie")


def _is_product(left: str, right: str, result: str) -> bool:
    if not len(left) == len(right) == len(result) >= 2:
        return False
    front = result[:-2]
    row, column, inner = result[-2], result[-1], left[-1]
    return (
        left == front + row + inner
        and right == front + inner + column
        and inner not in result
        and row not in right
        and column not in left
    )


@graphopt.pass_("simplify", after=["compose-transposes"], ops=["Einsum"])
def transposes_into_einsum(graph: gs.Graph, target: Target, model: Model) -> int:
    """Einsum(Transpose(x, [1, 0]), "ij->i") = Einsum(x, "ji->i"); a Transpose of the result turns the result's letters.

    Where nothing but Einsums reads the Transpose, and it alone reads the Einsum.
    """
    edit = model.editor
    changes = 0
    for node in edit.of("Einsum"):
        found = terms(node.attrs.get("equation", ""), len(node.inputs)) if is_standard(node) else None
        if found is None or not edit.has(node):
            continue
        each, result = found
        inputs, gone = list(node.inputs), []
        for slot, tensor in enumerate(inputs):
            maker = _only_for_einsums(edit, tensor, node)
            perm = None if maker is None else _perm(maker, len(each[slot]))
            if maker is not None and perm is not None:
                inputs[slot] = maker.inputs[0]
                each[slot] = "".join(each[slot][perm.index(axis)] for axis in range(len(perm)))
                gone.append(maker)
        last = node
        reader = (
            node.outputs[0].outputs[0] if edit.use_count(node.outputs[0]) == len(node.outputs[0].outputs) == 1 else None
        )
        if reader is not None and edit.scope(reader) is edit.scope(node):
            perm = _perm(reader, len(result))
            if perm is not None:
                last, result = reader, "".join(result[axis] for axis in perm)
        if not gone and last is node:
            continue
        made = edit.insert("Einsum", inputs, {"equation": f"{','.join(each)}->{result}"}, at=node, name=node.name)
        inherit(made, [node, *gone, *([last] if last is not node else [])], "transposes-into-einsum")
        model.inference.node(made, model.imports(node))
        edit.replace(last.outputs[0], made.outputs[0])
        edit.prune([last, node, *gone])
        changes += 1
    return changes


def _only_for_einsums(edit: Editor, tensor: gs.Tensor, node: gs.Node) -> gs.Node | None:
    """The node that makes the tensor, beside the Einsum, if only Einsums that can be read do read it."""
    maker = tensor.inputs[0] if tensor.inputs else None
    if maker is None or edit.is_result(tensor) or edit.scope(maker) is not edit.scope(node):
        return None
    for reader in tensor.outputs:
        if reader.op != "Einsum" or not is_standard(reader) or edit.scope(reader) is not edit.scope(node):
            return None
        if terms(reader.attrs.get("equation", ""), len(reader.inputs)) is None:
            return None
    return maker


def _perm(node: gs.Node, rank: int) -> list[int] | None:
    """The order of axes of a standard Transpose of that rank."""
    if node.op != "Transpose" or not is_standard(node):
        return None
    perm = [int(axis) for axis in node.attrs.get("perm", range(rank)[::-1])]
    return perm if sorted(perm) == list(range(rank)) else None


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        transposes_into_einsum,
        TransposeInsteadOfEinsum(),
        ReduceSumInsteadOfEinsum(),
        MulInsteadOfEinsum(),
        MatMulInsteadOfEinsum(),
    ]
