"""Sizes at which the first-party layers are timed, and what they are in PyTorch."""

from __future__ import annotations

from functools import cache

import numpy as np
from graphopt_layers.bits import FusedBitwiseXor
from graphopt_layers.boxes import FusedNonMaxSuppression
from graphopt_layers.compaction import FusedCompress, FusedNonZero
from graphopt_layers.deformable import FusedDeformableAttention
from graphopt_layers.fourier import FusedDFT, FusedSTFT
from graphopt_layers.gated import FusedGeGLU, FusedGeGLUSplit, FusedSwiGLU, FusedSwiGLUSplit
from graphopt_layers.norms import FusedAddLayerNorm, FusedAddRMSNorm, FusedRMSNorm
from graphopt_layers.rotary import FusedRotaryHalf, FusedRotaryInterleaved
from graphopt_layers.sampling import FusedCol2Im, FusedGridSample3D, FusedMaxUnpool
from graphopt_layers.scatter import FusedScatterElements, FusedScatterND
from graphopt_layers.unique import FusedUnique
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


def nonzero(x):
    import torch

    return torch.nonzero(x).T


def unique(x):
    import torch

    values, inverse, counts = torch.unique(x, return_inverse=True, return_counts=True)
    return values, None, inverse, counts


def suppress(boxes, scores):
    import torch
    import torchvision

    kept = torchvision.ops.nms(boxes[0], scores[0, 0], 0.5)[:100]
    return torch.stack((torch.zeros_like(kept), torch.zeros_like(kept), kept), 1)


def grid_sample(x, grid):
    return _functional().grid_sample(x, grid, align_corners=False)


@cache
def _within_planes(pointer, indices, size):
    """PyTorch counts within a plane, ONNX over the whole tensor; worked out once a buffer."""
    return indices % size


def corners(shape):
    """Where a max pool of 2 by 2 took the first element of every window, over the whole tensor."""
    n, c, h, w = shape
    at = np.arange(n * c)[:, None, None] * (4 * h * w) + np.arange(h)[:, None] * (4 * w) + np.arange(w) * 2
    return at.reshape(shape)


def unpool(x, indices):
    height, width = 2 * x.shape[2], 2 * x.shape[3]
    return _functional().max_unpool2d(x, _within_planes(indices.data_ptr(), indices, height * width), 2)


def fold(x):
    return _functional().fold(x, (128, 128), (3, 3))


def rfft(x):
    import torch

    return torch.view_as_real(torch.fft.rfft(x[..., 0]))


def fft(x):
    import torch

    return torch.view_as_real(torch.fft.fft(torch.view_as_complex(x)))


def stft(signal, window):
    import torch

    n = window.shape[0]
    return torch.view_as_real(torch.stft(signal, n, 160, n, window, center=False, return_complex=True).transpose(1, 2))


def deformable(value, places, weights):
    import torch

    batch, _, heads, channels = value.shape
    queries, levels, points = weights.shape[1], weights.shape[3], weights.shape[4]
    taken = []
    for level, (part, side) in enumerate(zip(value.split((6400, 1600, 400), 1), (80, 40, 20), strict=True)):
        image = part.flatten(2).transpose(1, 2).reshape(batch * heads, channels, side, side)
        grid = places[:, :, :, level].transpose(1, 2).flatten(0, 1)
        taken.append(_functional().grid_sample(image, grid, align_corners=False))
    spread = weights.transpose(1, 2).reshape(batch * heads, 1, queries, levels * points)
    total = (torch.stack(taken, -2).flatten(-2) * spread).sum(-1)
    return total.view(batch, heads * channels, queries).transpose(1, 2).contiguous()


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
    {
        "layer": FusedNonZero,
        "shapes": {"x": (2048, 8192)},
        "dtypes": ("float32", "bool"),
        "torch": nonzero,
        "bytes": lambda case: sum(t.nbytes for t in case.tensors()) + 2048 * 8192 * 2 // 3 * 16,
    },
    {
        "layer": FusedCompress,
        "shapes": {"x": (65536, 512), "keep": (65536,)},
        "types": {"keep": "bool"},
        "dtypes": ("float16", "float32"),
        "torch": lambda x, keep: x[keep],
        "bytes": lambda case: sum(t.nbytes for t in case.tensors()),
    },
    {"layer": FusedUnique, "shapes": {"x": (1 << 22,)}, "dtypes": ("int64", "float32"), "torch": unique},
    {
        "layer": FusedNonMaxSuppression,
        "attributes": {"most": 100},
        "shapes": {"boxes": (1, 16384, 4), "scores": (1, 1, 16384)},
        "dtypes": ("float32",),
        "torch": suppress,
    },
    {
        "layer": FusedGridSample3D,
        "shapes": {"x": (2, 32, 64, 64, 64), "grid": (2, 64, 64, 64, 3)},
        "dtypes": HALF_FIRST[:2],
        "torch": grid_sample,
    },
    {
        "layer": FusedMaxUnpool,
        "shapes": {"x": (16, 64, 128, 128), "indices": (16, 64, 128, 128)},
        "types": {"indices": "int64"},
        "dtypes": HALF_FIRST[:2],
        "values": {"indices": corners},
        "torch": unpool,
    },
    {
        "layer": FusedCol2Im,
        "attributes": {"image_shape": (128, 128), "block_shape": (3, 3)},
        "shapes": {"x": (8, 576, 15876)},
        "dtypes": HALF_FIRST[:2],
        "torch": fold,
    },
    {
        "layer": FusedDFT,
        "attributes": {"onesided": 1},
        "shapes": {"x": (65536, 512, 1)},
        "dtypes": ("float32", "float16"),
        "torch": rfft,
    },
    {"layer": FusedDFT, "shapes": {"x": (16384, 1024, 2)}, "dtypes": ("float32",), "torch": fft},
    {
        "layer": FusedSTFT,
        "attributes": {"step": 160},
        "shapes": {"signal": (64, 160000), "window": (400,)},
        "dtypes": ("float32",),
        "torch": stft,
    },
    {
        "layer": FusedDeformableAttention,
        "attributes": {
            "sizes": (6400, 1600, 400),
            "rows0": (8, 6400, 256),
            "rows1": (8, 1600, 256),
            "rows2": (8, 400, 256),
            "maps0": (64, 32, 80, 80),
            "maps1": (64, 32, 40, 40),
            "maps2": (64, 32, 20, 20),
            "sites": (64, 8400, 4, 2),
            "joined": (64, 32, 8400, 12),
            "spread": (64, 1, 8400, 12),
            "result": (8, 256, 8400),
        },
        "shapes": {"value": (8, 8400, 8, 32), "places": (8, 8400, 8, 3, 4, 2), "weights": (8, 8400, 8, 3, 4)},
        "dtypes": HALF_FIRST,
        "torch": deformable,
    },
]
