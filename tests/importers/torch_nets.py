"""Networks of PyTorch's own libraries, with random weights, and small ones that are hard to export."""

from __future__ import annotations

import torch
from torch import nn

from tests.bench.corpus import vision_ops  # noqa: F401  (before torchvision)


def resnet() -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    return _lively(torchvision.models.resnet18(weights=None))


def segmentation() -> nn.Module:
    import torchvision

    torch.manual_seed(0)
    return First(_lively(torchvision.models.segmentation.deeplabv3_resnet50(weights=None, weights_backbone=None)))


def vit() -> tuple[nn.Module, torch.Tensor]:
    import timm

    torch.manual_seed(0)
    return timm.create_model("vit_tiny_patch16_224", pretrained=False), torch.randn(1, 3, 224, 224)


def bert() -> nn.Module:
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    sizes = {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 256}
    return BertModel(BertConfig(vocab_size=1000, **sizes))


def _lively(net: nn.Module) -> nn.Module:
    """Statistics of batch normalization as training leaves them, or it would be the identity."""
    for one in net.modules():
        if isinstance(one, nn.BatchNorm2d):
            one.running_mean.normal_(0, 0.1)
            one.running_var.uniform_(0.5, 1.5)
    return net


def detector() -> tuple[nn.Module, list[torch.Tensor]]:
    """A network that ends in suppression, with statistics of its own activations and scores that differ."""
    import torchvision

    torch.manual_seed(0)
    net = torchvision.models.detection.ssdlite320_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=5, topk_candidates=40, detections_per_img=20
    )
    norms = [one for one in net.modules() if isinstance(one, nn.BatchNorm2d)]
    for one in norms:
        one.reset_running_stats()
        one.momentum = None
        one.train()
    with torch.no_grad():
        net.backbone(torch.randn(2, 3, 320, 320))
        for one in net.head.modules():
            if isinstance(one, nn.BatchNorm2d):
                one.running_var.fill_(0.05)
            elif isinstance(one, nn.Conv2d) and one.kernel_size == (1, 1):
                nn.init.normal_(one.weight, 0, 0.15)
    return net.eval(), [[torch.rand(3, 320, 320)]]


def causal() -> tuple[nn.Module, torch.Tensor]:
    """A language model that returns a cache, too."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=500, n_embd=64, n_layer=2, n_head=4)), torch.arange(12).reshape(1, 12)


def translator() -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(0)
    sizes = {"d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(vocab_size=500, decoder_start_token_id=0, **sizes))


class Cached(nn.Module):
    """Returns what no graph has."""

    def forward(self, x: torch.Tensor) -> object:
        from transformers import DynamicCache

        return x, DynamicCache()


class Recurrent(nn.Module):
    """Keywords, a default, a dictionary out, and an output that is None."""

    def __init__(self, hidden: int = 8) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, hidden, batch_first=True)

    def forward(self, token_ids: torch.Tensor, scale: torch.Tensor | None = None) -> dict[str, torch.Tensor | None]:
        found, _ = self.lstm(self.embed(token_ids))
        return {"states": found if scale is None else found * scale, "nothing": None, "last": found[:, -1]}


class First(nn.Module):
    """The result `out` of a network that returns a dictionary."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)["out"]


class Named(nn.Module):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"twice": x * 2}


class Branch(nn.Module):
    """A value decides what is computed."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.sum() > 0:
            return x + 1
        return x - 1


class Unsupported(nn.Module):
    """An operator that ONNX does not have."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.i1(x)


class FixedRows(nn.Module):
    """Works for four rows only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(4, 3) * 2 + x


def half() -> tuple[nn.Module, torch.Tensor]:
    torch.manual_seed(0)
    return nn.Linear(8, 4).bfloat16(), torch.randn(2, 8, dtype=torch.bfloat16)


def broken() -> nn.Module:
    raise RuntimeError("the weights are elsewhere")


def number() -> int:
    return 3


@torch.library.custom_op("graphopt_tests::gain", mutates_args=())
def gain(x: torch.Tensor, weight: torch.Tensor, scale: float = 1.0, bias: torch.Tensor | None = None) -> torch.Tensor:
    found = x * weight * scale
    return found if bias is None else found + bias


@gain.register_fake
def _(x: torch.Tensor, weight: torch.Tensor, scale: float = 1.0, bias: torch.Tensor | None = None) -> torch.Tensor:
    return torch.empty_like(x)


class Gains(nn.Module):
    """Calls of an operator that only torch.library knows."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(8, 8)
        self.weight = nn.Parameter(torch.randn(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = gain(self.linear(x), self.weight, 0.5)
        return torch.relu(first) + gain(first, self.weight, bias=self.weight)
