"""What onnxruntime's dynamic quantization leaves in a graph, as it is read by `unquantize`."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from graphopt.ir.weights import Array, read, size


def scaled(node: gs.Node) -> tuple[gs.Node, gs.Node, gs.Tensor | None] | None:
    """(the Mul that makes the result float, the Mul of the two scales, what is added between, if anything)."""
    total, steps = node.outputs[0], None
    if len(total.outputs) == 1 and total.outputs[0].op == "Add":
        add = total.outputs[0]
        steps = next((tensor for tensor in add.inputs if tensor is not total), None)
        total = add.outputs[0] if steps is not None else total
    for cast in total.outputs:
        if cast.op != "Cast" or len(total.outputs) != 1:
            continue
        for product in cast.outputs[0].outputs:
            if product.op != "Mul" or len(cast.outputs[0].outputs) != 1:
                continue
            other = next((t for t in product.inputs if t is not cast.outputs[0]), None)
            scales = other.inputs[0] if other is not None and other.inputs else None
            if scales is not None and scales.op == "Mul":
                return product, scales, steps
    return None


def stepped(steps: gs.Tensor, scale: gs.Tensor, rank: int) -> gs.Constant | None:
    """b of Reshape(Cast(Floor(b / scale)), [1, -1, 1, ...]), a channel's bias in steps of the scale."""
    tensor, made = steps, []
    for op in ("Reshape", "Cast", "Floor", "Div"):
        if not tensor.inputs or tensor.inputs[0].op != op:
            return None
        made.append(tensor.inputs[0])
        tensor = tensor.inputs[0].inputs[0]
    shape, bias = made[0].inputs[1], tensor
    if not isinstance(shape, gs.Constant) or not isinstance(bias, gs.Constant) or made[3].inputs[1] is not scale:
        return None
    channels = size(bias)
    wanted = [[1, dim, *[1] * (rank - 2)] for dim in (-1, channels)]
    return bias if len(bias.shape) == 1 and read(shape).tolist() in wanted else None


def lstm_weights(node: gs.Node) -> tuple[Array, Array] | None:
    """DynamicQuantizeLSTM(x, W, R, b, ..., sW, zW, sR, zR) = LSTM(x, w, r, b, ...), w = (sW * (W - zW))^T, r alike.

    W: (directions, inputs, 4 * hidden), R: (directions, hidden, 4 * hidden); a scale for each direction, or for each
    direction and column (onnxruntime's ContribOperators). None where one is no constant.
    """
    found = []
    for slot, at in ((1, 8), (2, 10)):
        q, scale = node.inputs[slot], node.inputs[at]
        zero = node.inputs[at + 1] if at + 1 < len(node.inputs) and node.inputs[at + 1].name else None
        if not isinstance(q, gs.Constant) or not isinstance(scale, gs.Constant):
            return None
        if zero is not None and not isinstance(zero, gs.Constant):
            return None
        wide = read(q).astype(np.float32)
        if zero is not None:
            wide = wide - read(zero).astype(np.float32).reshape(len(wide), 1, -1)
        wide = wide * read(scale).reshape(len(wide), 1, -1)
        found.append(np.ascontiguousarray(wide.transpose(0, 2, 1), np.float32))
    return found[0], found[1]
