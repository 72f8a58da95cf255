"""Graphs around Einsum, and around Gather of one place."""

from __future__ import annotations

from random import Random

import onnx

from graphopt.testing import model

from .families import family, opset


@family("transposes-into-einsum")
def turned(rng: Random) -> onnx.ModelProto:
    sizes = {letter: rng.randint(1, 3) for letter in "bijk"}
    x, y = rng.sample("bik", 3), rng.sample("bjk", 3)
    letters = rng.choice(("bij", "bijk", "ij"))
    result = rng.sample(letters, len(letters))
    turns = [rng.sample(range(3), 3) for _ in range(2)]
    shapes = [[sizes[term[turn.index(axis)]] for axis in range(3)] for term, turn in zip((x, y), turns, strict=True)]
    last = rng.choice(("Transpose(e)", "Neg(e)"))
    other = rng.choice(("Neg(x)", "Neg(t)", 'Einsum <equation = "abc -> ab"> (t)'))
    return model(
        f"""g (float{shapes[0]} x, float{shapes[1]} y) => (z, o) {{
        t = Transpose <perm = {turns[0]}> (x) u = Transpose <perm = {turns[1]}> (y)
        e = Einsum <equation = "{"".join(x)},{"".join(y)}->{"".join(result)}"> (t, u) z = {last} o = {other} }}""",
        opset=opset(rng),
    )


def _einsum(rng: Random, equations: tuple[str, ...]) -> onnx.ModelProto:
    equation = rng.choice(equations)
    sizes = {letter: rng.randint(1, 3) for letter in "bcijk"}
    each = equation.split("->")[0].split(",")
    names = ("x", "y")[: len(each)]
    inputs = ", ".join(
        f"float{[sizes[letter] for letter in term]} {name}" for term, name in zip(each, names, strict=True)
    )
    return model(
        f'g ({inputs}) => (z) {{ e = Einsum <equation = "{equation}"> ({", ".join(names)}) z = Neg(e) }}',
        opset=opset(rng),
    )


@family("transpose-instead-of-einsum")
def turns_one(rng: Random) -> onnx.ModelProto:
    return _einsum(rng, ("bij->jbi", "bij->bij", "ij->ji", "bij->bj"))


@family("reduce-sum-instead-of-einsum")
def sums_one(rng: Random) -> onnx.ModelProto:
    return _einsum(rng, ("bij->bj", "bij->", "ij->j", "bij->jb", "bij->bij"))


@family("mul-instead-of-einsum")
def multiplies(rng: Random) -> onnx.ModelProto:
    return _einsum(rng, ("bij,bij->bij", "i,i->i", "ij,ji->ij"))


@family("mat-mul-instead-of-einsum")
def products(rng: Random) -> onnx.ModelProto:
    return _einsum(rng, ("bij,bjk->bik", "ij,jk->ik", "jk,ij->ik", "bcij,bcjk->bcik", "bij,bkj->bik", "bij,jk->bik"))


@family("gather-before-transpose")
def last_steps(rng: Random) -> onnx.ModelProto:
    perm = rng.choice(([1, 0, 2], [1, 2, 0], [0, 2, 1], [2, 1, 0], [2, 0, 1]))
    shape = [rng.randint(1, 3) for _ in range(3)]
    axis = rng.randrange(-3, 3)
    places = rng.choice(("int64 i = {-1}", "int64 i = {0}", "int64[1] i = {0}"))
    return model(
        f"""g (float{shape} x) => (z, u) <{places}> {{ t = Transpose <perm = {perm}> (x)
        y = Gather <axis = {axis}> (t, i) z = Neg(y) u = {rng.choice(("Neg(t)", "Neg(x)"))} }}""",
        opset=opset(rng),
    )
