"""Networks over points, graphs, tables of features, and series, written out in PyTorch."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .language import _variants
from .store import image, normal, tokens


class Neighbours(nn.Module):
    """PointNet++: the nearest points around each centre."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(6, 32, 1), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 1), nn.ReLU())
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        centres = x[:, ::8]
        far = ((centres[:, :, None] - x[:, None]) ** 2).sum(-1)
        near = far.topk(8, largest=False)[1].unsqueeze(-1).expand(-1, -1, -1, 3)
        points = torch.gather(x.unsqueeze(1).expand(-1, centres.shape[1], -1, -1), 2, near)
        both = torch.cat([points - centres.unsqueeze(2), points], -1).permute(0, 3, 1, 2)
        return self.head(self.body(both).max(-1)[0].max(-1)[0])  # type: ignore[no-any-return]


class EdgeConv(nn.Module):
    """DGCNN: neighbours by an index into all points of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(6, 16, 1, bias=False), nn.BatchNorm2d(16), nn.LeakyReLU(0.2))
        self.head = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32), nn.LeakyReLU(0.2), nn.Linear(32, 5))

    def forward(self, x: Tensor) -> Tensor:
        square = (x**2).sum(1, keepdim=True)
        near = (2 * torch.matmul(x.transpose(2, 1), x) - square - square.transpose(2, 1)).topk(6, dim=-1)[1]
        batch, channels, count = x.shape
        flat = (near + torch.arange(batch).view(-1, 1, 1) * count).view(-1)
        points = x.transpose(2, 1).contiguous()
        found = points.view(batch * count, -1)[flat, :].view(batch, count, 6, channels)
        own = points.view(batch, count, 1, channels).repeat(1, 1, 6, 1)
        y = self.body(torch.cat([found - own, own], 3).permute(0, 3, 1, 2)).max(-1)[0]
        pools = [F.adaptive_max_pool1d(y, 1).view(batch, -1), F.adaptive_avg_pool1d(y, 1).view(batch, -1)]
        return self.head(torch.cat(pools, 1))  # type: ignore[no-any-return]


class GraphAttention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project, self.head = nn.Linear(8, 16, bias=False), nn.Linear(16, 4)
        self.sends, self.gets = nn.Parameter(torch.randn(2, 8)), nn.Parameter(torch.randn(2, 8))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        h = self.project(x).view(-1, 2, 8)
        score = F.leaky_relu((h * self.sends).sum(-1).unsqueeze(1) + (h * self.gets).sum(-1).unsqueeze(0), 0.2)
        weight = score.masked_fill(edges.unsqueeze(-1) == 0, float("-inf")).softmax(1)
        return F.log_softmax(self.head(F.elu(torch.einsum("ijh,jhd->ihd", weight, h).reshape(-1, 16))), -1)


class Features(nn.Module):
    """DLRM: products of all pairs of embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.tables = nn.ModuleList([nn.Embedding(50, 16) for _ in range(6)])
        self.bottom = nn.Sequential(nn.Linear(13, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU())
        self.top = nn.Sequential(nn.Linear(16 + 21, 32), nn.ReLU(), nn.Linear(32, 1), nn.Sigmoid())

    def forward(self, dense: Tensor, sparse: Tensor) -> Tensor:
        x = self.bottom(dense)
        rows = torch.stack([x] + [table(sparse[:, i]) for i, table in enumerate(self.tables)], 1)
        i, j = torch.tril_indices(7, 7, -1)
        return self.top(torch.cat([x, torch.bmm(rows, rows.transpose(1, 2))[:, i, j]], 1))  # type: ignore[no-any-return]


class Dilated(nn.Module):
    """WaveNet's gates over dilated convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 16, 1)
        self.wide = nn.ModuleList([nn.Conv1d(16, 32, 3, padding=2**i, dilation=2**i) for i in range(4)])
        self.out = nn.ModuleList([nn.Conv1d(16, 32, 1) for _ in range(4)])
        self.last = nn.Sequential(nn.ReLU(), nn.Conv1d(16, 16, 1), nn.ReLU(), nn.Conv1d(16, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        total = torch.zeros_like(x)
        for wide, out in zip(self.wide, self.out, strict=True):
            gate, value = wide(x).chunk(2, 1)
            more, skip = out(torch.tanh(gate) * torch.sigmoid(value)).chunk(2, 1)
            x, total = (x + more) * math.sqrt(0.5), total + skip
        return self.last(total / 2)  # type: ignore[no-any-return]


class Turned(nn.Module):
    """Transposed attention over channels, as image restoration has it, between two layouts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 16, 3, 1, 1), nn.Conv2d(16, 3, 3, 1, 1)
        self.norm, self.qkv = nn.LayerNorm(16), nn.Conv2d(16, 48, 1, bias=False)
        self.heat, self.out = nn.Parameter(torch.full((2, 1, 1), 1.3)), nn.Conv2d(16, 16, 1, bias=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.first(image)
        batch, channels, height, width = x.shape
        y = self.norm(x.flatten(2).transpose(1, 2)).transpose(1, 2).reshape(batch, channels, height, width)
        q, k, v = (part.reshape(batch, 2, 8, height * width) for part in self.qkv(y).chunk(3, 1))
        weight = (F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1) * self.heat).softmax(-1)
        return self.last(x + self.out((weight @ v).reshape(batch, channels, height, width))) + image  # type: ignore[no-any-return]


def _edges() -> np.ndarray:  # type: ignore[type-arg]
    return ((np.random.default_rng(0).random((12, 12)) < 0.4) | np.eye(12, dtype=bool)).astype(np.float32)


_variants("pointnet2", "points", Neighbours, lambda: {"x": normal(2, 64, 3)}, {"x": {0: "batch"}}, "ts17 ts17-dyn dy18")
_variants("dgcnn", "points", EdgeConv, lambda: {"x": normal(2, 3, 40)}, {"x": {0: "batch"}}, "ts13 ts17-dyn")
_variants(
    "gat",
    "graph network",
    GraphAttention,
    lambda: {"x": normal(12, 8), "edges": _edges()},
    {"x": {0: "n"}, "edges": {0: "n", 1: "n"}},
    "ts17 ts13-dyn dy18",
)
_variants(
    "dlrm",
    "recommender",
    Features,
    lambda: {"dense": normal(4, 13), "sparse": tokens(4, 6, vocabulary=50)},
    {"dense": {0: "batch"}, "sparse": {0: "batch"}},
    "ts17 ts13-dyn dy18",
)
_variants(
    "wavenet", "audio", Dilated, lambda: {"x": normal(1, 1, 64)}, {"x": {0: "batch", 2: "time"}}, "ts17 ts13-dyn dy18"
)
_variants(
    "restormer",
    "restoration",
    Turned,
    lambda: {"image": image(1, 3, 16, 16)},
    {"image": {2: "height", 3: "width"}},
    "ts17 ts17-dyn dy18",
)
