"""Operators of training, with their state as inputs and outputs: optimizers, batch statistics, dropout."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

import graphopt
from graphopt.config import Target
from graphopt.ir import dtypes
from graphopt.rewrite.build import Skip
from graphopt.rewrite.value import Value
from graphopt.rewrite.worklist import Model

from .site import Site, rewrite


def _groups(site: Site, per: int) -> list[list[Value]]:
    """The variadic inputs after R and T, one list for each tensor that is optimized."""
    count = (len(site.inputs) - 2) // per
    if count < 1 or len(site.inputs) != 2 + per * count or len(site.node.outputs) != (per - 1) * count:
        raise Skip(f"{len(site.inputs)} inputs and {len(site.node.outputs)} outputs do not make whole groups")
    return [[site[2 + k * count + i] for k in range(per)] for i in range(count)]


def _gather(found: list[tuple[Any, ...]]) -> list[Any]:
    return [value for column in zip(*found, strict=True) for value in column]


def _real(site: Site, name: str, otherwise: float) -> Any:
    return np.asarray(site.attr(name, otherwise), site.dtype(2))


def _count(site: Site) -> Value:
    return site.cast(site[1], site.dtype(2))


def momentum(site: Site) -> list[Any]:
    """v' = alpha v + beta_T (g + norm x), x' = x - r v' (standard) or x - r (g + norm x + alpha v') (Nesterov)."""
    op, found = site.op, []
    alpha, norm = _real(site, "alpha", 0), _real(site, "norm_coefficient", 0)
    beta = op.Where(op.Greater(site[1], np.zeros((), np.int64)), _real(site, "beta", 0), np.ones((), site.dtype(2)))
    for x, g, v in _groups(site, 3):
        g = op.Add(op.Mul(x, norm), g)
        new = op.Add(op.Mul(v, alpha), op.Mul(g, beta))
        step = new if site.attr("mode") == "standard" else op.Add(g, op.Mul(new, alpha))
        found.append((op.Sub(x, op.Mul(site[0], step)), new))
    return _gather(found)


def adagrad(site: Site) -> list[Any]:
    """h' = h + g**2, x' = x - r / (1 + T decay) g / (sqrt(h') + epsilon), g with norm x added."""
    op, found = site.op, []
    rate = op.Div(site[0], op.Add(op.Mul(_count(site), _real(site, "decay_factor", 0)), np.ones((), site.dtype(2))))
    for x, g, h in _groups(site, 3):
        g = op.Add(op.Mul(x, _real(site, "norm_coefficient", 0)), g)
        new = op.Add(h, op.Mul(g, g))
        found.append((op.Sub(x, op.Div(op.Mul(rate, g), op.Add(op.Sqrt(new), _real(site, "epsilon", 1e-6)))), new))
    return _gather(found)


def adam(site: Site) -> list[Any]:
    """v' = alpha v + (1 - alpha) g, h' = beta h + (1 - beta) g**2, x' = x - r' v' / (sqrt(h') + epsilon)."""
    op, found, one = site.op, [], np.ones((), site.dtype(2))
    alpha, beta = _real(site, "alpha", 0.9), _real(site, "beta", 0.999)
    count = _count(site)
    corrected = op.Div(op.Mul(site[0], op.Sqrt(op.Sub(one, op.Pow(beta, count)))), op.Sub(one, op.Pow(alpha, count)))
    rate = op.Where(op.Greater(site[1], np.zeros((), np.int64)), corrected, site[0])
    after = np.asarray(1 - float(site.attr("norm_coefficient_post", 0.0)), site.dtype(2))
    for x, g, v, h in _groups(site, 4):
        g = op.Add(op.Mul(x, _real(site, "norm_coefficient", 0)), g)
        mean = op.Add(op.Mul(v, alpha), op.Mul(g, one - alpha))
        square = op.Add(op.Mul(h, beta), op.Mul(op.Mul(g, g), one - beta))
        moved = op.Sub(x, op.Div(op.Mul(rate, mean), op.Add(op.Sqrt(square), _real(site, "epsilon", 1e-6))))
        found.append((op.Mul(moved, after), mean, square))
    return _gather(found)


def batch_norm(site: Site) -> list[Any]:
    """(x - mean) / sqrt(var + epsilon) * scale + bias over the batch, and running = running m + batch (1 - m)."""
    if not site.attr("training_mode", 0):
        raise Skip("not in training mode")
    op, x, rank = site.op, site[0], site.rank()
    axes = [0, *range(2, rank)]
    mean = op.ReduceMean(x, axes, keepdims=1)
    apart = op.Sub(x, mean)
    var = op.ReduceMean(op.Mul(apart, apart), axes, keepdims=1)
    along = [1, -1] + [1] * (rank - 2)
    scale, bias = (op.Reshape(site.cast(site[slot], site.dtype()), along) for slot in (1, 2))
    root = op.Sqrt(op.Add(var, np.asarray(site.attr("epsilon", 1e-5), site.dtype())))
    y = op.Add(op.Mul(op.Div(apart, root), scale), bias)
    keep = float(site.attr("momentum", 0.9))
    running: list[Any] = [y]
    for slot, value in ((3, mean), (4, var)):
        kind = site.dtype(slot)
        flat = site.cast(op.Reshape(value, [-1]), kind)
        old = op.Mul(site[slot], np.asarray(keep, kind))
        running.append(op.Add(old, op.Mul(flat, np.asarray(1 - keep, kind))))
    return running


def dropout(site: Site) -> list[Any]:
    """x * (u >= ratio) / (1 - ratio), u uniform and drawn anew; x itself, and ones, where the ratio is 0."""
    op = site.op
    if site.input(2) is None or not bool(site.const(2)):
        raise Skip("not in training mode")
    ratio = float(site.const(1)) if site.input(1) is not None else 0.5
    if ratio == 0:
        mask = op.Expand(np.asarray(True), op.Shape(site[0]))
        return [op.Identity(site[0]), mask]
    if ratio >= 1:
        raise Skip("a ratio of 1")
    dtype = site.dtype() if dtypes.name(site.dtype()) != "float64" else np.dtype(np.float32)
    shape = site[0] if site.dtype() == dtype else site.cast(site[0], dtype)
    drawn = op.RandomUniformLike(shape, low=0.0, high=1.0, seed=site.node.attrs.get("seed"))
    mask = op.GreaterOrEqual(drawn, np.asarray(ratio, dtype))
    kept = op.Mul(site[0], site.cast(mask, site.dtype()))
    return [op.Div(kept, np.asarray(1 - ratio, site.dtype())), mask]


HANDLERS = {
    "Momentum": momentum,
    "Adagrad": adagrad,
    "Adam": adam,
    "BatchNormalization": batch_norm,
    "Dropout": dropout,
}


@graphopt.pass_("legalize", ops=tuple(HANDLERS))
def spell_training(graph: gs.Graph, target: Target, model: Model) -> int:
    """Momentum, Adagrad, Adam, batch statistics and dropout in training = arithmetic, for TensorRT only.

    Accuracy: as float32 rounds; random numbers are drawn anew.
    """
    return rewrite(model, target, HANDLERS, "spell-training")


@graphopt.hookimpl
def graphopt_passes() -> list[Any]:
    return [spell_training]
