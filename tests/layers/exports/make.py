"""The portable layers as PyTorch's two exporters write them, as ONNX text: `python make.py FOLDER` (needs torch)."""

from __future__ import annotations

import re
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import nn
from torch.nn.functional import gelu, grid_sample, silu


class Norm(nn.Module):
    """Llama's: the statistics in float32."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(8) + 0.5)

    def forward(self, x):
        wide = x.to(torch.float32)
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + 1e-6)).to(x.dtype)


class RMSNorm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = Norm()

    def forward(self, x):
        return torch.relu(self.norm(torch.relu(x)))


class AddRMSNorm(RMSNorm):
    def forward(self, x, residual):
        total = torch.relu(x) + residual
        return torch.relu(total), torch.relu(self.norm(total))


class AddLayerNorm(AddRMSNorm):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(8)
        nn.init.uniform_(self.norm.weight, 0.5, 1.5)
        nn.init.uniform_(self.norm.bias)


class Gated(nn.Module):
    def __init__(self, activation) -> None:
        super().__init__()
        self.activation = activation

    def forward(self, gate, up):
        return torch.abs(self.activation(torch.abs(gate)) * up)


class GatedHalves(Gated):
    def forward(self, x):
        gate, up = torch.abs(x).chunk(2, -1)
        return torch.abs(self.activation(gate) * up)


class Rotary(nn.Module):
    def __init__(self, turned) -> None:
        super().__init__()
        self.turned = turned

    def forward(self, x, cos, sin):
        x = torch.abs(x)
        return torch.abs(x * cos.unsqueeze(1) + self.turned(x) * sin.unsqueeze(1))


class Angles(nn.Module):
    def forward(self, x, cos, sin):
        even, odd = torch.abs(x)[..., ::2], torch.abs(x)[..., 1::2]
        cos, sin = cos.unsqueeze(1), sin.unsqueeze(1)
        return torch.abs(torch.stack((even * cos - odd * sin, even * sin + odd * cos), -1).flatten(-2))


def half_turned(x):
    half = x.shape[-1] // 2
    return torch.cat((-x[..., half:], x[..., :half]), -1)


def every_two(x):
    return torch.stack((-x[..., 1::2], x[..., ::2]), -1).flatten(-2)


def unbound(x):
    even, odd = x.reshape(*x.shape[:-1], -1, 2).unbind(-1)
    return torch.stack((-odd, even), -1).flatten(3)


class Deformable(nn.Module):
    """The reference in PyTorch of Deformable-DETR's sampling."""

    sizes = ((4, 6), (2, 3), (1, 2))

    def forward(self, value, places, weights):
        batch, _, heads, channels = value.shape
        _, queries, _, levels, points, _ = places.shape
        parts = value.split([height * width for height, width in self.sizes], dim=1)
        grids, samples = 2 * places - 1, []
        for level, (height, width) in enumerate(self.sizes):
            image = parts[level].flatten(2).transpose(1, 2).reshape(batch * heads, channels, height, width)
            grid = grids[:, :, :, level].transpose(1, 2).flatten(0, 1)
            samples.append(grid_sample(image, grid, mode="bilinear", padding_mode="zeros", align_corners=False))
        weights = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
        total = (torch.stack(samples, dim=-2).flatten(-2) * weights).sum(-1)
        return torch.abs(total.view(batch, heads * channels, queries).transpose(1, 2).contiguous())


def tanh_gelu(x):
    return gelu(x, approximate="tanh")


ROWS, HEADS = {0: "batch", 1: "length"}, {0: "batch", 2: "length"}
X, TABLE, ANGLES, HEADED = (2, 5, 8), (2, 5, 8), (2, 5, 4), (2, 3, 5, 8)
CASES: dict[str, tuple[nn.Module, list[tuple[int, ...]], list[dict[int, str]]]] = {
    "FusedRMSNorm": (RMSNorm(), [X], [ROWS]),
    "FusedAddRMSNorm": (AddRMSNorm(), [X, X], [ROWS, ROWS]),
    "FusedAddLayerNorm": (AddLayerNorm(), [X, X], [ROWS, ROWS]),
    "FusedSwiGLU": (Gated(silu), [X, X], [ROWS, ROWS]),
    "FusedGeGLU": (Gated(gelu), [X, X], [ROWS, ROWS]),
    "FusedGeGLU_tanh": (Gated(tanh_gelu), [X, X], [ROWS, ROWS]),
    "FusedSwiGLUSplit": (GatedHalves(silu), [X], [ROWS]),
    "FusedGeGLUSplit": (GatedHalves(gelu), [X], [ROWS]),
    "FusedRotaryHalf": (Rotary(half_turned), [HEADED, TABLE, TABLE], [HEADS, ROWS, ROWS]),
    "FusedRotaryPairs": (Rotary(every_two), [HEADED, TABLE, TABLE], [HEADS, ROWS, ROWS]),
    "FusedRotaryPairs_unbound": (Rotary(unbound), [HEADED, TABLE, TABLE], [HEADS, ROWS, ROWS]),
    "FusedRotaryAngles": (Angles(), [HEADED, ANGLES, ANGLES], [HEADS, ROWS, ROWS]),
    "FusedDeformableAttention": (Deformable(), [(2, 32, 2, 4), (2, 5, 2, 3, 4, 2), (2, 5, 2, 3, 4)], []),
}


def export(module: nn.Module, shapes: Any, axes: Any, path: Path, *, dynamo: bool) -> onnx.ModelProto:
    """The model; axes: those of each input that are dynamic."""
    given = tuple(torch.rand(shape) for shape in shapes)
    names = [f"in{at}" for at in range(len(given))]
    if dynamo:
        sizes = {name: torch.export.Dim(name) for name in ("batch", "length")}
        dynamic = tuple({axis: sizes[name] for axis, name in one.items()} for one in axes) or None
        torch.onnx.export(
            module, given, str(path), opset_version=18, dynamo=True, verbose=False, input_names=names,
            dynamic_shapes=dynamic,
        )  # fmt: skip
    else:
        dynamic = dict(zip(names, axes, strict=True)) if axes else None
        torch.onnx.export(
            module, given, str(path), opset_version=17, dynamo=False, input_names=names, dynamic_axes=dynamic
        )
    return onnx.load(path)


def plain(proto: onnx.ModelProto) -> str:
    """Text without the exporter's remarks."""
    for item in (*proto.graph.node, *proto.graph.input, *proto.graph.output, proto.graph, proto):
        del item.metadata_props[:]
        item.doc_string = ""
    del proto.graph.value_info[:]
    tensors = {item.name: item for item in proto.graph.initializer}
    tensors |= {node.output[0]: node.attribute[0].t for node in proto.graph.node if node.op_type == "Constant"}
    text = str(onnx.printer.to_text(proto))
    for name, tensor in tensors.items():  # the printer keeps six digits
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype.kind == "f":
            exact = ", ".join(repr(float(one)) for one in array.ravel())
            before = rf"({re.escape(name)}\"? = (?:Constant <value: tensor = float(?:\[[0-9,]*\])? )?) *{{[^}}]*}}"
            text, count = re.subn(before, rf"\g<1>{{{exact}}}", text)
            assert count == 1, name
    return text + "\n"


def main(folder: Path) -> None:
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as place:
        for name, (module, shapes, axes) in CASES.items():
            for dynamo in (False, True):
                for dynamic in (False, True) if axes else (False,):
                    proto = export(
                        module.eval(), shapes, axes if dynamic else [], Path(place, "model.onnx"), dynamo=dynamo
                    )
                    kind = "dynamo" if dynamo else "torchscript"
                    stem = f"{name}-{kind}{'-dynamic' if dynamic else ''}"
                    folder.joinpath(f"{stem}.txt").write_text(plain(proto))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
