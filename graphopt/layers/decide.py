"""Whether a layer's call is worth it: --lower always, never, auto."""

from __future__ import annotations

from collections.abc import Sequence

from graphopt.config import Target
from graphopt.errors import GraphoptError

from .facts import outputs_of
from .layer import Layer
from .measured import Store, bytes_of, current_gpu, stores
from .tensor import Tensor

LOWER = ("auto", "always", "never")


class Decision:
    """The answer for one run.

    always: wherever a pattern stands. never: nowhere. auto: where TensorRT cannot do the job without (the layer is not
    portable, and the target runs kernels), or where a measurement on the GPU at hand says that the kernel is faster at
    about this size.
    """

    def __init__(self, mode: str, target: Target) -> None:
        self.mode = mode
        self.kernels = target.backend in ("tensorrt", "tensorrt_rtx")
        """Whether kernels can run there: as plugins, or between engines."""
        self.store: Store | None = None
        if mode == "auto":
            known = stores()
            gpu = current_gpu() if known else ""
            self.store = next((store for store in known if store.gpu == gpu), known[0] if len(known) == 1 else None)

    def wants(self, layer: Layer) -> bool:
        """Whether a call of the layer could be worth it anywhere: if not, nothing is searched."""
        if self.mode != "auto":
            return self.mode == "always"
        if not layer.portable and self.kernels:
            return True
        return self.store is not None and any(one.layer == layer.name and one.wins for one in self.store.read())

    def pays(self, layer: Layer, tensors: Sequence[Tensor]) -> str | None:
        """None if this call is worth it, or why it is not."""
        if self.mode == "always" or (not layer.portable and self.kernels):
            return None
        if self.store is None:
            return "nothing was measured on this GPU: graphopt bench-layer does it"
        total = bytes_of([*tensors, *outputs_of(layer, _by_name(layer, tensors))])
        if total is None:
            return "its size is not known: give --freeze, or lower with --lower always"
        kind = next(
            (t.dtype.name for t, name in zip(tensors, layer.inputs, strict=False) if name not in layer.types), ""
        )
        return self.store.judge(layer.name, kind or layer.dtypes[0], total)


def _by_name(layer: Layer, tensors: Sequence[Tensor]) -> dict[str, Tensor | None]:
    if len(tensors) > len(layer.inputs):
        raise GraphoptError(f"{layer.name} takes {len(layer.inputs)} inputs, not {len(tensors)}")
    return dict(zip(layer.inputs, tensors, strict=False))
