"""Sizes at which the first-party layers are timed, and what they are in PyTorch."""

from __future__ import annotations

from graphopt_layers.bits import FusedBitwiseXor
from graphopt_layers.gated import FusedGeGLU, FusedGeGLUSplit, FusedSwiGLU, FusedSwiGLUSplit
from graphopt_layers.norms import FusedAddLayerNorm, FusedAddRMSNorm, FusedRMSNorm
from graphopt_layers.rotary import FusedRotaryHalf, FusedRotaryInterleaved
from graphopt_layers.scatter import FusedScatterElements, FusedScatterND
from graphopt_layers.wrapping import FusedPadRepeat

HALF_FIRST = ("float16", "float32", "bfloat16")


def _functional():
    import torch.nn.functional as functional

    return functional


def rms(x, weight):
    return _functional().rms_norm(x, (x.shape[-1],), weight, 1e-6)


def add_rms(x, residual, weight):
    total = x + residual
    return total, _functional().rms_norm(total, (x.shape[-1],), weight, 1e-6)


def add_layer(x, residual, weight, bias):
    total = x + residual
    return total, _functional().layer_norm(total, (x.shape[-1],), weight, bias, 1e-5)


def swiglu(gate, up):
    return _functional().silu(gate) * up


def geglu(gate, up):
    return _functional().gelu(gate) * up


def swiglu_split(x):
    gate, up = x.chunk(2, -1)
    return _functional().silu(gate) * up


def geglu_split(x):
    up, gate = x.chunk(2, -1)
    return _functional().gelu(gate) * up


def rotary_half(x, cos, sin):
    import torch

    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


def rotary_interleaved(x, cos, sin):
    import torch

    even, odd = x[..., ::2], x[..., 1::2]
    c, s = cos[:, None], sin[:, None]
    return torch.stack((even * c - odd * s, even * s + odd * c), -1).flatten(-2)


SPECS = [
    {"layer": FusedRMSNorm, "shapes": {"x": (8192, 4096), "weight": (4096,)}, "dtypes": HALF_FIRST, "torch": rms},
    {"layer": FusedRMSNorm, "shapes": {"x": (262144, 128), "weight": (128,)}, "dtypes": ("float16",), "torch": rms},
    {
        "layer": FusedAddRMSNorm,
        "shapes": {"x": (8192, 4096), "residual": (8192, 4096), "weight": (4096,)},
        "dtypes": HALF_FIRST,
        "torch": add_rms,
    },
    {
        "layer": FusedAddLayerNorm,
        "shapes": {"x": (32768, 768), "residual": (32768, 768), "weight": (768,), "bias": (768,)},
        "dtypes": HALF_FIRST,
        "torch": add_layer,
    },
    {
        "layer": FusedSwiGLU,
        "shapes": {"gate": (4096, 11008), "up": (4096, 11008)},
        "dtypes": HALF_FIRST,
        "torch": swiglu,
    },
    {"layer": FusedGeGLU, "shapes": {"gate": (4096, 8192), "up": (4096, 8192)}, "dtypes": ("float16",), "torch": geglu},
    {
        "layer": FusedSwiGLUSplit,
        "shapes": {"x": (4096, 16384)},
        "dtypes": HALF_FIRST[:2],
        "torch": swiglu_split,
    },
    {
        "layer": FusedGeGLUSplit,
        "shapes": {"x": (8192, 10240)},
        "dtypes": ("float16",),
        "torch": geglu_split,
    },
    {
        "layer": FusedRotaryHalf,
        "attributes": {"half": 64},
        "shapes": {"x": (4, 32, 4096, 128), "cos": (1, 1, 4096, 128), "sin": (1, 1, 4096, 128)},
        "dtypes": HALF_FIRST,
        "torch": rotary_half,
    },
    {
        "layer": FusedRotaryInterleaved,
        "shapes": {"x": (4, 32, 4096, 128), "cos": (4, 4096, 64), "sin": (4, 4096, 64)},
        "dtypes": HALF_FIRST[:2],
        "torch": rotary_interleaved,
    },
    {
        "layer": FusedBitwiseXor,
        "shapes": {"a": (4096, 8192), "b": (4096, 8192)},
        "dtypes": ("int32", "uint8"),
        "torch": lambda a, b: a ^ b,
    },
    {"layer": FusedPadRepeat, "shapes": {"x": (16, 64, 256, 256)}, "dtypes": ("float16", "float32")},
    {
        "layer": FusedScatterND,
        "shapes": {"data": (65536, 512), "indices": (65536, 1), "updates": (65536, 512)},
        "types": {"indices": "int64"},
        "dtypes": ("float32", "float16"),
    },
    {
        "layer": FusedScatterElements,
        "shapes": {"data": (65536, 512), "indices": (65536, 512), "updates": (65536, 512)},
        "types": {"indices": "int64"},
        "dtypes": ("float32",),
    },
]
