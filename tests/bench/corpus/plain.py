"""Networks written out in PyTorch: what timm and transformers do not have, and loops and branches through scripting."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as f
from torch import Tensor, nn

from .export import dynamo, torchscript
from .store import Feeds, add, image, normal


def conv_bn(inner: int, outer: int, size: int = 3, stride: int = 1, act: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inner, outer, size, stride, size // 2, bias=False), nn.BatchNorm2d(outer), act())


class UNet(nn.Module):
    """Bilinear or transposed upsampling, to the size that the skip has."""

    def __init__(self, transposed: bool) -> None:
        super().__init__()
        self.down = nn.ModuleList([conv_bn(3, 16), conv_bn(16, 32), conv_bn(32, 64)])
        self.up = nn.ModuleList([conv_bn(64 + 32, 32), conv_bn(32 + 16, 16)])
        self.wide = nn.ModuleList([nn.ConvTranspose2d(64, 64, 2, 2), nn.ConvTranspose2d(32, 32, 2, 2)])
        self.head = nn.Conv2d(16, 4, 1)
        self.transposed = transposed

    def forward(self, x: Tensor) -> Tensor:
        skips = []
        for i, block in enumerate(self.down):
            x = block(x if i == 0 else f.max_pool2d(x, 2))
            skips.append(x)
        for wide, block, skip in zip(self.wide, self.up, (skips[1], skips[0]), strict=True):
            x = (
                wide(x)
                if self.transposed
                else f.interpolate(x, size=skip.shape[2:], mode="bilinear", align_corners=False)
            )
            x = block(torch.cat([x, skip], 1))
        return torch.softmax(self.head(x), 1)


class Yolo(nn.Module):
    """A head like YOLOv5's: split, sigmoid, grids, concatenated boxes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(conv_bn(3, 16, 3, 2, nn.SiLU), conv_bn(16, 32, 3, 2, nn.SiLU))
        self.a, self.b = conv_bn(32, 48, 3, 2, nn.SiLU), conv_bn(48, 64, 3, 2, nn.SiLU)
        self.merge = conv_bn(64 + 48, 48, 1, 1, nn.SiLU)
        self.heads = nn.ModuleList([nn.Conv2d(48, 3 * 9, 1), nn.Conv2d(64, 3 * 9, 1)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        fine = self.a(x)
        coarse = self.b(fine)
        pooled = [coarse]
        for _ in range(2):
            pooled.append(f.max_pool2d(pooled[-1], 5, 1, 2))
        coarse = coarse + sum(pooled[1:])
        fine = self.merge(torch.cat([f.interpolate(coarse, scale_factor=2.0, mode="nearest"), fine], 1))
        found = []
        for level, (head, stride) in enumerate(zip(self.heads, (8, 16), strict=True)):
            y = head((fine, coarse)[level])
            n, _, h, w = y.shape
            y = y.view(n, 3, 9, h, w).permute(0, 1, 3, 4, 2).contiguous()
            rows, columns = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
            grid = torch.stack((columns, rows), 2).view(1, 1, h, w, 2).float()
            xy, wh, rest = y.sigmoid().split((2, 2, 5), 4)
            y = torch.cat(((xy * 2 - 0.5 + grid) * stride, (wh * 2) ** 2 * 10.0, rest), 4)
            found.append(y.view(n, -1, 9))
        return torch.cat(found, 1)


class Enlarge(nn.Module):
    """Super-resolution with PixelShuffle, or written out with reshape and permute."""

    def __init__(self, spelled: bool) -> None:
        super().__init__()
        self.head, self.tail = nn.Conv2d(3, 32, 3, 1, 1), nn.Conv2d(32, 12, 3, 1, 1)
        self.body = nn.ModuleList(
            [nn.Sequential(nn.Conv2d(32, 32, 3, 1, 1), nn.PReLU(32), nn.Conv2d(32, 32, 3, 1, 1)) for _ in range(4)]
        )
        self.spelled = spelled

    def forward(self, x: Tensor) -> Tensor:
        low = x
        x = self.head(x)
        for block in self.body:
            x = x + block(x) * 0.1
        x = self.tail(x)
        if self.spelled:
            n, _, h, w = x.shape
            x = x.view(n, 3, 2, 2, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, 3, h * 2, w * 2)
        else:
            x = f.pixel_shuffle(x, 2)
        return x + f.interpolate(low, scale_factor=2.0, mode="bicubic", align_corners=False)


class Diffusion(nn.Module):
    """A slice of a diffusion UNet: GroupNorm, SiLU, time embedding, attention, nearest upsampling."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(32, 64), nn.SiLU(), nn.Linear(64, 64))
        self.into, self.out = nn.Conv2d(4, 32, 3, 1, 1), nn.Conv2d(32, 4, 3, 1, 1)
        self.norms = nn.ModuleList([nn.GroupNorm(8, 32) for _ in range(5)])
        self.convs = nn.ModuleList([nn.Conv2d(32, 32, 3, 1, 1) for _ in range(4)])
        self.shift = nn.Linear(64, 32)
        self.qkv, self.proj = nn.Linear(32, 96), nn.Linear(32, 32)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        angle = t[:, None].float() * torch.exp(torch.arange(16).float() * -(np.log(10000) / 16))[None]
        emb = self.time(torch.cat([angle.sin(), angle.cos()], -1))
        x = self.into(x)
        h = self.convs[0](f.silu(self.norms[0](x))) + self.shift(f.silu(emb))[:, :, None, None]
        x = x + self.convs[1](f.silu(self.norms[1](h)))
        b, c, height, width = x.shape
        y = self.norms[2](x).view(b, c, height * width).transpose(1, 2)
        q, k, v = self.qkv(y).view(b, -1, 3, 4, 8).permute(2, 0, 3, 1, 4)
        y = (torch.softmax(q @ k.transpose(-1, -2) * 8**-0.5, -1) @ v).transpose(1, 2).reshape(b, -1, c)
        x = x + self.proj(y).transpose(1, 2).reshape(b, c, height, width)
        x = f.interpolate(f.avg_pool2d(self.convs[2](f.silu(self.norms[3](x))), 2), scale_factor=2.0, mode="nearest")
        return self.out(f.silu(self.norms[4](self.convs[3](x))))


class Recurrent(nn.Module):
    """Spectrogram to letters: convolutions, a bidirectional recurrence, a linear layer."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.conv = nn.Sequential(conv_bn(1, 8), conv_bn(8, 16, 3, 2))
        self.rnn = kind(16 * 20, 48, 2, batch_first=True, bidirectional=True)
        self.out = nn.Linear(96, 30)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).permute(0, 3, 1, 2)
        y, _ = self.rnn(y.flatten(2))
        return torch.log_softmax(self.out(y), -1)


class PointNet(nn.Module):
    """A point cloud with a learned transform; maximum over points."""

    def __init__(self) -> None:
        super().__init__()
        self.turn = nn.Sequential(nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1))
        self.matrix = nn.Linear(64, 9)
        self.body = nn.Sequential(
            nn.Conv1d(3, 64, 1), nn.BatchNorm1d(64), nn.ReLU(), nn.Conv1d(64, 128, 1), nn.BatchNorm1d(128)
        )
        self.head = nn.Sequential(nn.Linear(128, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Dropout(0.3), nn.Linear(64, 10))

    def forward(self, x: Tensor) -> Tensor:
        m = self.matrix(self.turn(x).max(2)[0]).view(-1, 3, 3) + torch.eye(3)
        x = torch.bmm(x.transpose(2, 1), m).transpose(2, 1)
        return f.log_softmax(self.head(torch.max(self.body(x), 2)[0]), 1)


class GraphNet(nn.Module):
    """Messages over an edge list: gather, linear, scatter-add, normalize."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(32, 32) for _ in range(3)])
        self.norms = nn.ModuleList([nn.LayerNorm(16) for _ in range(3)])
        self.back = nn.ModuleList([nn.Linear(32, 16) for _ in range(3)])

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        src, dst = edges[0], edges[1]
        for linear, norm, back in zip(self.layers, self.norms, self.back, strict=True):
            message = f.relu(linear(torch.cat([x[src], x[dst]], -1)))
            total = torch.zeros(x.shape[0], 32).index_add(0, dst, message)
            count = torch.zeros(x.shape[0]).index_add(0, dst, torch.ones_like(dst, dtype=torch.float))
            x = norm(x + back(total / count.clamp(min=1)[:, None]))
        return x


class EinsumAttention(nn.Module):
    """Attention as equations, with a learned relative bias."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Parameter(torch.randn(48, 4, 12) * 0.1) for _ in range(3))
        self.o = nn.Parameter(torch.randn(4, 12, 48) * 0.1)
        self.bias = nn.Parameter(torch.randn(4, 10, 10))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (torch.einsum("btd,dhc->bhtc", x, w) for w in (self.q, self.k, self.v))
        weights = torch.softmax(torch.einsum("bhtc,bhsc->bhts", q, k) / 12**0.5 + self.bias, -1)
        return x + torch.einsum("bhtc,hcd->btd", torch.einsum("bhts,bhsc->bhtc", weights, v), self.o)


class Norms(nn.Module):
    """Style transfer: InstanceNorm, reflection padding, hand-written norms and activations of every spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 16, 3), nn.Conv2d(16, 3, 3)]
        )
        self.inst, self.group = nn.InstanceNorm2d(16, affine=True), nn.GroupNorm(4, 16)
        self.scale = nn.Parameter(torch.rand(16) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inst(self.convs[0](f.pad(x, (1, 1, 1, 1), mode="reflect")))
        x = x * torch.tanh(f.softplus(x))
        x = self.group(self.convs[1](f.pad(x, (1, 1, 1, 1), mode="replicate")))
        x = 0.5 * x * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * torch.pow(x, 3))))
        y = x.permute(0, 2, 3, 1)
        y = y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale
        x = self.convs[2](f.pad(y.permute(0, 3, 1, 2), (1, 1, 1, 1)))
        x = x * f.relu6(x + 3) / 6
        mean, std = x.mean((2, 3), keepdim=True), x.std((2, 3), keepdim=True)
        x = f.leaky_relu((x - mean) / (std + 1e-5), 0.1)
        x = x * (x / 1.41421356).erf().add(1) * 0.5
        return torch.sigmoid(self.convs[3](x))


class Sampler(nn.Module):
    """Flow-guided warping: a grid from predicted offsets, GridSample, TopK over scores."""

    def __init__(self) -> None:
        super().__init__()
        self.offset, self.score = nn.Conv2d(3, 2, 3, 1, 1), nn.Conv2d(3, 1, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        flow = torch.tanh(self.offset(x)) * 0.1
        theta = torch.tensor([[[1.0, 0, 0], [0, 1.0, 0]]]).expand(x.shape[0], -1, -1)
        grid = f.affine_grid(theta, list(x.shape), align_corners=False) + flow.permute(0, 2, 3, 1)
        warped = f.grid_sample(x, grid, align_corners=False)
        best, where = torch.topk(self.score(warped).flatten(1), 5)
        return warped, torch.gather(warped.flatten(2), 2, where[:, None].expand(-1, 3, -1)) * best[:, None]


@torch.jit.script
def _steps(x: Tensor, weight: Tensor, count: int) -> Tensor:
    for i in range(count):
        x = torch.tanh(x @ weight) + float(i) * 0.01
    return x


@torch.jit.script
def _branch(x: Tensor) -> Tensor:
    if bool(x.sum() > 0):
        y = torch.relu(x) * 2.0 + 1.0
    else:
        y = torch.sigmoid(x) * 1.0 + 0.0
    return y


class Scripted(nn.Module):
    """A loop of fixed count, and a branch on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(16, 16) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        return _branch(_steps(x, self.weight, 5)) @ self.weight


def _edges() -> Feeds:
    random = np.random.default_rng(1)
    return {"x": normal(20, 16), "edges": random.integers(0, 20, (2, 60))}


def _points() -> Feeds:
    return {"points": normal(2, 3, 128)}


def _all(
    name: str, family: str, build: Callable[[], nn.Module], feeds: Callable[[], Feeds], free: Any, words: str
) -> None:
    for word in words.split():
        how, _, dynamic = word.partition("-")
        axes = free if dynamic else None
        opset = int("".join(c for c in how if c.isdigit()))
        if how.startswith("ts"):
            add(f"{name}-{word}", family, f"TorchScript {word[2:]}", torchscript(build, feeds, opset, axes))
        elif how.startswith("fold"):
            add(
                f"{name}-{word}",
                family,
                f"TorchScript {opset}, folded",
                torchscript(build, feeds, opset, axes, fold=True),
            )
        else:
            raw = how.startswith("raw")
            label = f"dynamo {opset}{'-dyn' if dynamic else ''}{', not optimized' if raw else ''}"
            add(f"{name}-{word}", family, label, dynamo(build, feeds, opset, axes, not raw))


def _square(side: int, channels: int = 3) -> Callable[[], Feeds]:
    return lambda: {"image": image(1, channels, side, side)}


torch.backends.mha.set_fastpath_enabled(False)
FREE = {"image": {0: "batch", 2: "height", 3: "width"}}
_all("unet-resize", "segmentation", lambda: UNet(False), _square(64), FREE, "ts11 ts17-dyn dy18 fold17-dyn")
_all("unet-transposed", "segmentation", lambda: UNet(True), _square(64), FREE, "ts13-dyn raw18")
_all("yolo", "detection", Yolo, _square(96), FREE, "ts11 ts13-dyn ts17 dy18 raw18")
_all("enlarge", "super-resolution", lambda: Enlarge(False), _square(32), FREE, "ts11 ts17-dyn dy18")
_all("enlarge-spelled", "super-resolution", lambda: Enlarge(True), _square(32), FREE, "ts17-dyn dy18")
_all("diffusion", "diffusion UNet, GroupNorm", Diffusion, lambda: {"latent": normal(2, 4, 16, 16), "t": np.array([10, 500])},
     {"latent": {0: "batch"}, "t": {0: "batch"}}, "ts13-dyn ts17 dy18 dy21 raw18")  # fmt: skip
_all(
    "crnn-lstm",
    "OCR, LSTM",
    lambda: Recurrent(nn.LSTM),
    lambda: {"page": image(1, 1, 40, 48)},
    {"page": {0: "batch", 3: "width"}},
    "ts11 ts17-dyn dy18",
)
_all(
    "crnn-gru",
    "speech, GRU",
    lambda: Recurrent(nn.GRU),
    lambda: {"page": image(1, 1, 40, 48)},
    {"page": {0: "batch", 3: "width"}},
    "ts13-dyn dy18",
)
_all("pointnet", "point cloud", PointNet, _points, {"points": {0: "batch", 2: "count"}}, "ts13 ts17-dyn dy18")
_all(
    "graphnet", "graph network, scatter", GraphNet, _edges, {"x": {0: "nodes"}, "edges": {1: "edges"}}, "ts18-dyn dy18"
)
_all(
    "einsum-attention",
    "einsum",
    EinsumAttention,
    lambda: {"x": normal(2, 10, 48)},
    {"x": {0: "batch"}},
    "ts13-dyn dy18 raw18",
)
_all("norms", "style transfer, spelled-out norms", Norms, _square(32), FREE, "ts11 ts17-dyn dy18 raw18-dyn")
_all("sampler", "warping, GridSample", Sampler, _square(24), {}, "dy20")
_all("scripted", "control flow", Scripted, lambda: {"x": normal(3, 16)}, {"x": {0: "batch"}}, "ts13-dyn ts17")
_all("transformer-torch", "encoder of torch.nn", lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(48, 4, 96, batch_first=True, activation="gelu"), 2, enable_nested_tensor=False),
     lambda: {"src": normal(2, 12, 48)}, {"src": {0: "batch", 1: "length"}}, "ts14 ts17-dyn dy18 raw18")  # fmt: skip
