"""What a plan costs in all: its nodes, each in its dtype, and the casts and quantizations between them."""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from .cost import Cost
from .flow import is_single
from .places import ACTIVATIONS
from .plan import Entry, Plan

_NONE = Entry()


class Price:
    """Seconds of plans of one model, by a cost model; nodes in bodies of control flow are left out.

    casts: whether those between floats cost anything; where no float32 layer was measured, float16 is believed to pay.
    """

    def __init__(self, graph: gs.Graph, cost: Cost, casts: bool = True) -> None:
        self.cost, self.casts = cost, casts
        self.nodes = [(node, node.name or node.outputs[0].name) for node in graph.nodes if node.outputs]
        self.outputs = {id(tensor) for tensor in graph.outputs}
        self._seconds: dict[tuple[str, str], float] = {}

    def __call__(self, plan: Plan) -> float:
        """seconds(plan) = sum over nodes of seconds(node, dtype) + sum over casts, quantizations of their borders."""
        total = 0.0
        paid: set[tuple[str, str]] = set()
        for node, name in self.nodes:
            dtype = self.dtype(node, name, plan)
            total += self._of(node, dtype)
            if dtype in ("int8", "float8e4m3fn") and dtype in self.cost.measured.get(name, {}):
                continue  # what was measured in 8 bits has the quantization of its operand in it
            total += sum(seconds for _, seconds in self._borders(node, name, dtype, plan, paid))
        if plan.io == "keep" and self.casts:
            for node, _ in self.nodes:
                for tensor in node.outputs:
                    if id(tensor) in self.outputs and is_single(tensor):
                        held = plan.tensors.get(tensor.name, _NONE).dtype
                        total += self.cost.border(tensor, held, "float32") if held != "float32" else 0.0
        return total

    def dtype(self, node: gs.Node, name: str, plan: Plan) -> str:
        """What a node computes in: 8 bits where its weight is quantized for it, else the dtype of its results."""
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                entry = plan.tensors.get(tensor.name)
                if entry is not None and entry.quantized and (not entry.readers or name in entry.readers):
                    return self._quantized(node, name, entry, plan)
        for tensor in (*node.outputs, *node.inputs):
            if tensor.name and not isinstance(tensor, gs.Constant) and is_single(tensor):
                return plan.tensors.get(tensor.name, _NONE).dtype
        return "float32"

    @staticmethod
    def _quantized(node: gs.Node, name: str, weight: Entry, plan: Plan) -> str:
        """The quantized dtype, where the activation has it, too; weights alone are computed as the results are."""
        entry = plan.tensors.get(node.inputs[0].name, _NONE)
        if entry.quantized and (not entry.readers or name in entry.readers):
            return weight.quantized
        return plan.tensors.get(node.outputs[0].name, _NONE).dtype

    def _of(self, node: gs.Node, dtype: str) -> float:
        key = (node.name, dtype)
        if key not in self._seconds:
            self._seconds[key] = self.cost.seconds(node, dtype)
        return self._seconds[key]

    def _borders(
        self, node: gs.Node, name: str, dtype: str, plan: Plan, paid: set[tuple[str, str]]
    ) -> Iterator[tuple[str, float]]:
        """What this node's operands cost to bring to its dtype; each only once for all that read it so."""
        is_8_bit = dtype in ("int8", "float8e4m3fn")
        for tensor in node.inputs:
            if not tensor.name or isinstance(tensor, gs.Constant) or not is_single(tensor):
                continue
            held = plan.tensors.get(tensor.name, _NONE)
            if held.dtype == dtype or (tensor.name, dtype) in paid or (is_8_bit and tensor is not node.inputs[0]):
                continue
            paid.add((tensor.name, dtype))
            if self._comes_quantized(tensor, plan) if is_8_bit else not self.casts:
                continue
            yield tensor.name, self.cost.border(tensor, held.dtype, dtype)

    def _comes_quantized(self, tensor: gs.Tensor, plan: Plan) -> bool:
        """Whether a kernel of 8 bits makes the value, behind bias and activation, which quantizes it on its way out."""
        for _ in range(_FUSED):
            if not tensor.inputs:
                return False
            node = tensor.inputs[0]
            name = node.name or node.outputs[0].name
            if self.dtype(node, name, plan) in ("int8", "float8e4m3fn"):
                return True
            if node.op not in _PASSED_BY or (len(node.inputs) > 1 and not isinstance(node.inputs[1], gs.Constant)):
                return False
            tensor = node.inputs[0]
        return False


_FUSED = 4
"""So many nodes behind a product are computed in its kernel, at most."""
_PASSED_BY = ACTIVATIONS | {"Add"}
