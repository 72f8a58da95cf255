"""Transposes: two are one, one that moves nothing of substance is a Reshape, and reductions absorb them."""

from __future__ import annotations

from functools import cache
from typing import Any

import onnx_graphsurgeon as gs

import graphopt
from graphopt.rewrite.value import Value

from .elementwise import REDUCTIONS
from .reshapes import target_for


class ComposeTransposes(graphopt.Rule):
    """Transpose(Transpose(x, p), q) = Transpose(x, [p[i] for i in q])."""

    shared_inner = True

    def pattern(self, op: Any, x: Any, p: Any, q: Any) -> Any:
        return op.Transpose(op.Transpose(x, perm=p), perm=q)

    def check(self, op: Any, x: Value, p: list[int] | None, q: list[int] | None) -> str | None:
        if p is None or q is None:
            return "the rank is unknown"
        if x.rank not in (None, len(p)) or not list(range(len(p))) == sorted(p) == sorted(q):
            return "an order of axes is none of the operand's"
        return None

    def rewrite(self, op: Any, x: Value, p: list[int], q: list[int]) -> Any:
        both = [p[axis] for axis in q]
        return x if both == sorted(both) else op.Transpose(x, perm=both)


class ReshapeInsteadOfTranspose(graphopt.Rule):
    """Transpose(x, perm) = Reshape(x, shape) where only dimensions of 1 change their places.

    Not where two dimensions of the result are unknown and not x's in the same place, or one is 0.
    """

    after = ("compose-transposes", "cancel-transposes")

    def pattern(self, op: Any, x: Any, perm: Any) -> Any:
        return op.Transpose(x, perm=perm)

    def glance(self, node: gs.Node) -> bool:
        shape, perm = node.inputs[0].shape, node.attrs.get("perm")
        if shape is None or not isinstance(perm, list) or sorted(perm) != list(range(len(shape))):
            return perm is None or shape is None
        moved = [axis for axis in perm if shape[axis] != 1]
        return moved == sorted(moved)

    def check(self, op: Any, x: Value, perm: list[int] | None) -> str | None:
        shape = x.shape
        if shape is None or perm is None:
            return "the rank is unknown"
        if sorted(perm) != list(range(len(shape))):
            return "it is no permutation of the dimensions"
        moved = [axis for axis in perm if shape[axis] != 1]
        return None if moved == sorted(moved) else "it moves dimensions that may differ from 1"

    def rewrite(self, op: Any, x: Value, perm: list[int]) -> Any:
        shape = x.shape
        assert shape is not None
        if perm == sorted(perm):
            return x
        target = target_for(shape, tuple(shape[axis] for axis in perm))
        if target is None:
            raise graphopt.Skip("two dimensions of the result are unknown, or one is 0")
        return op.Reshape(x, target)


class _ReduceTransposed(graphopt.Rule):
    """Reduce(Transpose(x, p), axes) = Transpose(Reduce(x, [p[a] for a in axes]), q)."""

    kind: str

    def pattern(self, op: Any, x: Any, p: Any, axes: Any, keep: Any) -> Any:
        return getattr(op, self.kind)(op.Transpose(x, perm=p), op.Const(axes), keepdims=keep)

    def check(self, op: Any, x: Value, p: list[int] | None, axes: Value) -> str | None:
        return "the rank is unknown" if p is None or x.rank is None or not axes.size else None

    def rewrite(self, op: Any, x: Value, p: list[int], axes: Value, keep: int) -> Any:
        assert axes.const is not None
        gone = {int(axis) % len(p) for axis in axes.const.ravel()}
        reduced = getattr(op, self.kind)(x, sorted(p[axis] for axis in gone), keepdims=keep)
        if keep:
            return op.Transpose(reduced, perm=p)
        left = [p[axis] for axis in range(len(p)) if axis not in gone]
        perm = [sorted(left).index(axis) for axis in left]
        return reduced if perm == sorted(perm) else op.Transpose(reduced, perm=perm)


@cache
def _reduce_transposed(kind: str) -> type[graphopt.Rule]:
    doc = f"{kind}(Transpose(x, p), axes) = Transpose({kind}(x, [p[a] for a in axes]), q): less is moved."
    return type(f"{kind}BeforeTranspose", (_ReduceTransposed,), {"kind": kind, "__doc__": doc})


class TransposeInGemm(graphopt.Rule):
    """Gemm(Transpose(a), b, c, transA=t) = Gemm(a, b, c, transA=1-t)."""

    def pattern(self, op: Any, a: Any, b: Any, c: Any, t: Any, rest: Any) -> Any:
        return op.Gemm(op.Transpose(a, perm=[1, 0]), b, op.maybe(c), transA=t, attrs=rest)

    def rewrite(self, op: Any, a: Value, b: Value, c: Value | None, t: int, rest: dict[str, Any]) -> Any:
        return op.Gemm(a, b, c, **{**rest, "transA": 1 - t})


class TransposeInGemmRight(graphopt.Rule):
    """Gemm(a, Transpose(b), c, transB=t) = Gemm(a, b, c, transB=1-t)."""

    def pattern(self, op: Any, a: Any, b: Any, c: Any, t: Any, rest: Any) -> Any:
        return op.Gemm(a, op.Transpose(b, perm=[1, 0]), op.maybe(c), transB=t, attrs=rest)

    def rewrite(self, op: Any, a: Value, b: Value, c: Value | None, t: int, rest: dict[str, Any]) -> Any:
        return op.Gemm(a, b, c, **{**rest, "transB": 1 - t})


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [
        ComposeTransposes(),
        ReshapeInsteadOfTranspose(),
        TransposeInGemm(),
        TransposeInGemmRight(),
        *(_reduce_transposed(kind)() for kind in sorted(REDUCTIONS)),
    ]
