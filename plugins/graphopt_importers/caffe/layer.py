"""One layer of a network, and its weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import ModelError

from .caffemodel import Array
from .prototxt import Message


@dataclass
class Layer:
    """A layer; bottoms and tops are names of values that are written once."""

    name: str
    type: str
    bottoms: list[str]
    tops: list[str]
    message: Message
    blobs: list[Array] = field(default_factory=list)
    shared: dict[int, str] = field(default_factory=dict)
    """index of a blob -> the name that layers share it by."""

    @property
    def where(self) -> str:
        return f"{self.message.where}: layer {self.name} ({self.type})"

    def error(self, what: str, hint: str = "") -> ModelError:
        return ModelError(what, where=self.where, hint=hint)

    def blob(self, index: int, shape: Sequence[Any], meaning: str) -> Array:
        """A blob of weights. Old files give every blob four dimensions: leading ones are taken off, or put on.

        Raises:
            ModelError: it is not there, or of another shape.
        """
        if index >= len(self.blobs):
            hint = "the .caffemodel was saved from another network, or is not the one that belongs to this .prototxt"
            raise self.error(f"blob {index} ({meaning}) is missing: it has {len(self.blobs) or 'none'}", hint)
        found, wanted = self.blobs[index], tuple(shape)
        if _stripped(found.shape) != _stripped(wanted):
            shown = ["x".join(map(str, dims)) or "scalar" for dims in (found.shape, wanted)]
            raise self.error(
                f"blob {index} ({meaning}) is {shown[0]} in the .caffemodel, and {shown[1]} by the .prototxt",
                "are these files of one network, and is the input of the right shape?",
            )
        return found.reshape(wanted)


def _stripped(shape: Sequence[Any]) -> tuple[Any, ...]:
    """Without leading ones."""
    dims = tuple(shape)
    while dims and dims[0] == 1:
        dims = dims[1:]
    return dims
