"""Image networks of timm with random weights: every family in the exporter's several spellings."""

from __future__ import annotations

from typing import Any

from . import vision_ops  # noqa: F401  (before timm, which imports torchvision)
import timm
import torch

from .export import dynamo, torchscript
from .store import Feeds, add, image


def _net(name: str, **options: Any) -> Any:
    return lambda: timm.create_model(name, pretrained=False, num_classes=100, exportable=True, **options)


def _picture(side: int, batch: int = 1) -> Any:
    def feeds() -> Feeds:
        return {"image": image(batch, 3, side, side)}

    return feeds


BATCH = {"image": {0: "batch"}}
FREE = {"image": {0: "batch", 2: "height", 3: "width"}}
TS, DY = "TorchScript", "dynamo"


def _plain() -> None:
    """(name, timm's name, family, side, spellings)."""
    nets: list[tuple[str, str, str, int, list[tuple[str, int, Any]], dict[str, Any]]] = [
        ("resnet18", "resnet18", "CNN", 96, [("ts", 11, None), ("ts", 13, BATCH), ("dy", 18, None), ("raw", 18, BATCH)], {}),
        ("resnet50d", "resnet50d", "CNN", 96, [("ts", 17, FREE)], {}),
        ("mobilenetv3", "mobilenetv3_small_100", "CNN, HardSwish, SE", 96, [("ts", 11, None), ("ts", 17, BATCH), ("raw", 18, None)], {}),
        ("mobilenetv2", "mobilenetv2_050", "CNN, ReLU6", 96, [("ts", 11, BATCH), ("dy", 20, BATCH)], {}),
        ("efficientnet", "efficientnet_b0", "CNN, SiLU, SE", 96, [("ts", 13, None), ("dy", 18, BATCH)], {}),
        ("efficientnetv2", "tf_efficientnetv2_b0", "CNN, SAME padding", 96, [("ts", 17, None)], {}),
        ("regnety", "regnety_004", "CNN, SE", 96, [("ts", 17, BATCH)], {}),
        ("ghostnet", "ghostnet_100", "CNN, Slice and Concat", 96, [("ts", 13, None)], {}),
        ("densenet", "densenet121", "CNN, Concat", 64, [("ts", 17, None)], {}),
        ("convnext", "convnext_atto", "CNN, LayerNorm, GELU", 96, [("ts", 13, None), ("ts", 17, BATCH), ("raw", 18, None)], {}),
        ("repvgg", "repvgg_a0", "CNN, branches", 64, [("ts", 17, BATCH)], {"features_only": False}),
        ("vit", "vit_tiny_patch16_224", "ViT", 64, [("ts", 13, None), ("ts", 17, BATCH), ("dy", 18, None), ("raw", 20, BATCH)], {"img_size": 64, "depth": 6}),
        ("deit-distilled", "deit_tiny_distilled_patch16_224", "ViT", 64, [("ts", 17, BATCH)], {"img_size": 64, "depth": 4}),
        ("swin", "swin_tiny_patch4_window7_224", "Swin", 112, [("ts", 13, None), ("ts", 17, BATCH), ("dy", 18, BATCH)], {"img_size": 112, "embed_dim": 48, "depths": (2, 2, 4, 2)}),
        ("swinv2", "swinv2_tiny_window8_256", "Swin", 64, [("ts", 17, None)], {"img_size": 64, "embed_dim": 48, "depths": (2, 2), "num_heads": (3, 6), "window_size": 4}),
        ("mixer", "mixer_s32_224", "MLP-mixer", 64, [("ts", 13, BATCH), ("dy", 18, None)], {"img_size": 64}),
        ("maxvit", "maxvit_rmlp_pico_rw_256", "ViT, windows", 128, [("ts", 17, BATCH)], {"img_size": 128}),
        ("mobilevit", "mobilevit_xxs", "CNN and ViT", 128, [("ts", 17, BATCH)], {}),
        ("poolformer", "poolformer_s12", "CNN, GroupNorm", 64, [("ts", 17, BATCH)], {}),
        ("levit", "levit_128s", "ViT, BatchNorm", 224, [("ts", 17, BATCH)], {}),
        ("xcit", "xcit_nano_12_p16_224", "ViT, cross-covariance", 64, [("ts", 17, None)], {"depth": 4}),
        ("eva02", "eva02_tiny_patch14_224", "ViT, rotary, SwiGLU", 56, [("ts", 17, None), ("dy", 18, None)], {"img_size": 56, "depth": 4}),
        ("inception", "inception_v3", "CNN, branches", 128, [("ts", 17, None)], {"aux_logits": False}),
        ("hrnet", "hrnet_w18_small", "CNN, Resize", 64, [("ts", 13, None)], {}),
        ("res2net", "res2net50_26w_4s", "CNN, Split", 64, [("ts", 13, None)], {}),
        ("nfnet", "nf_regnet_b0", "CNN, weight standardization", 96, [("ts", 17, None), ("raw", 18, None)], {}),
        ("coatnet", "coatnet_0_rw_224", "CNN and ViT", 64, [("ts", 17, BATCH)], {"img_size": 64}),
        ("edgenext", "edgenext_xx_small", "CNN and ViT", 96, [("ts", 17, None)], {}),
        ("volo", "volo_d1_224", "ViT, Fold", 64, [("dy", 18, None)], {"img_size": 64}),
        ("fastvit", "fastvit_t8", "CNN and ViT", 96, [("ts", 17, BATCH), ("dy", 18, None)], {}),
        ("beit", "beit_base_patch16_224", "ViT, relative position", 64, [("ts", 17, None)], {"img_size": 64, "embed_dim": 192, "depth": 4, "num_heads": 3}),
        ("gcvit", "gcvit_xxtiny", "ViT, windows", 224, [("ts", 17, None)], {}),
        ("efficientformer", "efficientformer_l1", "CNN and ViT", 224, [("ts", 13, BATCH)], {}),
        ("pvt", "pvt_v2_b0", "ViT", 64, [("ts", 17, BATCH)], {}),
    ]  # fmt: skip
    for name, model, family, side, spellings, options in nets:
        for exporter, opset, dynamic in spellings:
            free = "-dyn" if dynamic else ""
            build, feeds = _net(model, **options), _picture(side, 2 if dynamic else 1)
            if exporter == "ts":
                add(f"{name}-ts{opset}{free}", family, f"{TS} {opset}{free}", torchscript(build, feeds, opset, dynamic))
            else:
                raw = exporter == "raw"
                label = f"{DY} {opset}{free}{', not optimized' if raw else ''}"
                add(f"{name}-{exporter}{opset}{free}", family, label, dynamo(build, feeds, opset, dynamic, not raw))


_plain()
add("resnet18-half", "CNN, fp16", "TorchScript 17, half()", torchscript(_net("resnet18"), _picture(96), 17, half=True))
add(
    "vit-half-dyn",
    "ViT, fp16",
    "TorchScript 17-dyn, half()",
    torchscript(_net("vit_tiny_patch16_224", img_size=64, depth=4), _picture(64), 17, BATCH, half=True),
)
torch.set_num_threads(2)
