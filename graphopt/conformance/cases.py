"""What a layer is tested with: dtypes, shapes (empty, one, odd, large), which inputs are there, values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from graphopt.errors import PluginError
from graphopt.ir import dtypes
from graphopt.layers.facts import fit, wrong_dtype
from graphopt.layers.find import assignments
from graphopt.layers.layer import Layer
from graphopt.layers.tensor import Tensor
from graphopt.layers.trace import absences

SIZES = (1, 2, 7, 32, 33, 128, 1000, 1024, 4099)
"""One, odd, even, powers of two and their neighbours: what a name in `shapes` may be."""
LEADS: tuple[tuple[int, ...], ...] = ((3,), (), (2, 5), (0, 4), (1,), (2, 3, 4), (1025,), (1, 1, 70001))
"""What `...` may be; (0, 4) holds nothing, the last ones are more rows than a grid axis may count."""
MOST = 1 << 22
"""Elements of one input, in the calls that the suite makes up; those that a layer names may be larger."""
LEAST = 3
"""A layer that admits fewer shapes than this is not tested: its `cases` must name some."""


@dataclass(frozen=True)
class Case:
    """One call of a layer."""

    layer: Layer
    present: tuple[str, ...]
    kinds: Mapping[str, np.dtype[Any]]
    shapes: Mapping[str, tuple[int, ...]]
    family: str = "normal"
    """normal: N(0, 1). large: N(0, 100^2), whose squares overflow float16. offset: N(8, 1), whose sums lose digits."""

    @property
    def dtype(self) -> str:
        """The layer's dtype."""
        own = [name for name in self.present if name not in self.layer.types]
        return dtypes.name(self.kinds[(own or list(self.present))[0]])

    def tensors(self) -> list[Tensor]:
        return [Tensor(self.kinds[name], self.shapes[name]) for name in self.present]

    def __str__(self) -> str:
        shapes = ", ".join(f"{name}={'x'.join(map(str, self.shapes[name])) or 'scalar'}" for name in self.present)
        changed = {k: v for k, v in self.layer.values.items() if v != self.layer.attributes[k]}
        more = f" {changed}" if changed else ""
        return f"{self.dtype} {shapes}{more}" + ("" if self.family == "normal" else f" {self.family}")

    def arrays(self, seed: int = 0) -> dict[str, np.ndarray[Any, Any]]:
        """Values of the inputs."""
        rng = np.random.default_rng(seed)
        found = {}
        for name in self.present:
            kind, shape = self.kinds[name], self.shapes[name]
            values = self.layer.sample(name, shape, rng)
            if values is None:
                values = _values(kind, shape, rng, self.family)
            if tuple(values.shape) != shape:
                raise PluginError(f"sample() gave shape {values.shape} for {shape}", where=f"layer {self.layer.name}")
            found[name] = np.asarray(values).astype(kind, order="C")
        return found


def _values(kind: np.dtype[Any], shape: Sequence[int], rng: np.random.Generator, family: str) -> Any:
    if dtypes.is_float(kind):
        normal = rng.standard_normal(tuple(shape))
        return normal * 100 if family == "large" else normal + 8 if family == "offset" else normal
    if kind == np.bool_:
        return rng.random(tuple(shape)) < 0.5
    low = 0 if kind.kind == "u" else -8
    return rng.integers(low, 9, tuple(shape))


def cases(layer: Layer, *, quick: bool = False, only: Sequence[str] = ()) -> list[Case]:
    """Every call that a layer is tested with. quick: few shapes, small ones; only: these dtypes.

    Raises PluginError where the layer's declarations admit too few.
    """
    found: list[Case] = []
    for fixed in layer.variants:
        base = type(layer)(**{**layer.values, **fixed})
        for number, present in enumerate(absences(layer)):
            for dims, attributes in _sizes(base, quick or number > 0):
                made = type(layer)(**{**base.values, **attributes})
                shapes = {name: _shape(made, name, dims) for name in present}
                found += [case for case in _by_dtype(made, present, shapes, only)]
    kept = [case for case in found if _admits(case)]
    if len({tuple(case.shapes.items()) for case in kept}) < min(LEAST, max(len(layer.cases), 1)) or not kept:
        raise PluginError(
            f"check() and shapes admit {len(kept)} of {len(found)} tried calls",
            where=f"layer {layer.name}",
            hint="name sizes that it takes: cases = ({'...': (2, 3), 'columns': 64},)",
        )
    return kept


def _by_dtype(
    layer: Layer, present: tuple[str, ...], shapes: Mapping[str, tuple[int, ...]], only: Sequence[str]
) -> Iterator[Case]:
    for kinds in assignments(layer, present):
        case = Case(layer, present, kinds, shapes)
        if only and case.dtype not in only:
            continue
        yield case
        has_floats = any(dtypes.is_float(kind) for kind in kinds.values())
        if has_floats and sum(int(np.prod(shape)) for shape in shapes.values()) <= 1 << 16:
            yield Case(layer, present, kinds, shapes, "large")
            yield Case(layer, present, kinds, shapes, "offset")


def _sizes(layer: Layer, quick: bool) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """(sizes by name, attributes): those that the layer names, then those made of `shapes`."""
    for given in layer.cases:
        dims = {name: value for name, value in given.items() if name not in layer.attributes}
        yield dims, {name: value for name, value in given.items() if name in layer.attributes}
    for dims in _made_up(layer, quick):
        if all(int(np.prod(_shape(layer, name, dims))) <= MOST for name in layer.shapes):
            yield dims, {}


def _made_up(layer: Layer, quick: bool) -> Iterator[dict[str, Any]]:
    named = sorted({t for text in layer.shapes.values() for t in text.split() if t != "..." and not t.isdecimal()})
    if not layer.shapes or (layer.cases and any(name not in layer.shapes for name in layer.inputs)):
        return
    leads = LEADS if any("..." in text for text in layer.shapes.values()) else LEADS[:1]
    for turn, size in enumerate(SIZES[:5] if quick else SIZES):
        sizes = {name: SIZES[(turn + 2 * at) % len(SIZES)] if at else size for at, name in enumerate(named)}
        yield {"...": leads[turn % len(leads[:2])], **sizes}
    for lead in leads[2:6] if quick else leads[2:]:
        many = int(np.prod(lead)) > 5000
        yield {"...": lead, **{name: 3 if many else 33 for name in named}}
    for empty in named:
        yield {"...": (2,), **{name: 0 if name == empty else 4 for name in named}}


def _shape(layer: Layer, name: str, dims: Mapping[str, Any]) -> tuple[int, ...]:
    if name in dims:
        return tuple(dims[name])
    text = layer.shapes.get(name)
    if text is None:
        raise PluginError(
            f"the shape of {name} is not declared",
            where=f"layer {layer.name}",
            hint=f"shapes = {{'{name}': ...}}, or in each of cases {{'{name}': (2, 3)}}",
        )
    shape: list[int] = []
    for token in text.split():
        if token == "...":
            shape += list(dims.get("...", (2,)))
        else:
            shape.append(int(token) if token.isdecimal() else int(dims[token]))
    return tuple(shape)


def _admits(case: Case) -> bool:
    tensors: dict[str, Tensor | None] = {name: Tensor(case.kinds[name], case.shapes[name]) for name in case.present}
    if fit(case.layer, tensors) is not None or wrong_dtype(case.layer, tensors) is not None:
        return False
    arrays = case.arrays() if any(int(np.prod(shape)) <= 4096 for shape in case.shapes.values()) else {}
    for name in case.layer.types:
        if name in arrays and name in tensors and arrays[name].size <= 4096:
            tensors[name] = Tensor(case.kinds[name], case.shapes[name], arrays[name])
    return case.layer.check(*(tensors.get(name) for name in case.layer.inputs)) is None
