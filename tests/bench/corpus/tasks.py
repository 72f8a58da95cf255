"""Networks of tasks: segmentation, detection, optical flow, video, and decoders that take and give their caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers as tr
from torch import Tensor, nn

from . import vision_ops  # noqa: F401  (before torchvision)
import torchvision.models as tv
from .language import WORDS, _llama, _variants
from .store import Feeds, image, normal, tokens
from .timm_nets import BATCH, FREE, _net, _picture


class Answer(nn.Module):
    """One entry of the answer that segmentation networks give."""

    def __init__(self, inner: nn.Module, name: str = "out") -> None:
        super().__init__()
        self.inner, self.name = inner, name

    def forward(self, image: Tensor) -> Tensor:
        return self.inner(image)[self.name]  # type: ignore[no-any-return]


def _segments(name: str, **options: Any) -> Any:
    more = {"weights": None, "weights_backbone": None, "num_classes": 5}
    return lambda: Answer(getattr(tv.segmentation, name)(**more, **options))


_variants(
    "deeplab", "segmentation", _segments("deeplabv3_mobilenet_v3_large"), _picture(64, 2), FREE, "ts13 ts17-dyn dy18"
)
_variants(
    "lraspp", "segmentation", _segments("lraspp_mobilenet_v3_large"), _picture(64, 2), FREE, "ts11 ts17-dyn dy20-dyn"
)


class Heads(nn.Module):
    """The dense part of a detector: pyramid, towers, and boxes decoded against anchors, before suppression."""

    def __init__(self, sides: int = 64) -> None:
        super().__init__()
        self.inner = tv.detection.ssdlite320_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5)

    def forward(self, image: Tensor) -> Any:
        maps = list(self.inner.backbone(image).values())
        found = self.inner.head(maps)
        from torchvision.models.detection.image_list import ImageList

        anchors = self.inner.anchor_generator(ImageList(image, [(320, 320)]), maps)[0]
        boxes = self.inner.box_coder.decode_single(found["bbox_regression"][0], anchors).clamp(0, 320)
        scores, labels = found["cls_logits"].softmax(-1)[0, :, 1:].max(-1)
        keep = scores.topk(50)[1]
        return boxes[keep], scores[keep], labels[keep]


_variants("ssdlite", "detection", Heads, _picture(320), {}, "ts11 ts17 dy18")


class Flow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = tv.optical_flow.raft_small(weights=None)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return self.inner(image, other, num_flow_updates=3)[-1]  # type: ignore[no-any-return]


_variants("raft", "optical flow", Flow, lambda: {"image": image(1, 3, 128, 128), "other": image(1, 3, 128, 128, seed=1)}, {}, "ts17 dy20")  # fmt: skip
CLIP = {"video": {0: "batch"}}
for name, model in (("r3d", "r3d_18"), ("r2plus1d", "r2plus1d_18"), ("mvit-video", "mvit_v2_s")):
    frames, side = (16, 224) if "mvit" in name else (4, 32)
    _variants(
        name, "video", lambda model=model: getattr(tv.video, model)(weights=None, num_classes=5),
        lambda frames=frames, side=side: {"video": image(1, 3, frames, side, side)}, CLIP, "ts17-dyn",
    )  # fmt: skip
for name, model, words in (("tv-shufflenet", "shufflenet_v2_x0_5", "ts11 ts17-dyn"), ("tv-swin-v2", "swin_v2_t", "ts17-dyn dy18-dyn"), ("tv-googlenet", "googlenet", "ts13-dyn"), ("tv-maxvit", "maxvit_t", "ts17-dyn")):  # fmt: skip
    more = {"init_weights": False, "aux_logits": False} if model == "googlenet" else {}
    side = 224 if model == "maxvit_t" else 64
    _variants(name, "torchvision", lambda model=model, more=more: getattr(tv, model)(weights=None, num_classes=5, **more), _picture(side, 2), BATCH, words)  # fmt: skip


class Decoder(nn.Module):
    """A causal language model for one step: keys and values come in, and go out longer."""

    def __init__(self, inner: nn.Module, layers: int) -> None:
        super().__init__()
        self.inner, self.layers = inner, layers
        self.__signature__ = None

    def forward(self, *args: Tensor) -> Any:
        ids, mask, *caches = args
        held = tr.DynamicCache()
        for index in range(self.layers):
            held.update(caches[2 * index], caches[2 * index + 1], index)
        found = self.inner(input_ids=ids, attention_mask=mask, past_key_values=held, use_cache=True)
        now = found.past_key_values
        out = [found.logits]
        for layer in now.layers:
            out += [layer.keys, layer.values]
        return tuple(out)


def _step(
    model: str, config: Any, layers: int, heads: int, size: int, attention: str = "eager"
) -> tuple[Any, Any, Any]:
    def build() -> nn.Module:
        made = config()
        made._attn_implementation = attention
        return Decoder(getattr(tr, model)(made), layers)

    def feeds() -> Feeds:
        found: Feeds = {"input_ids": tokens(2, 1, vocabulary=WORDS), "attention_mask": np.ones((2, 8), np.int64)}
        for index in range(layers):
            found[f"past.{index}.key"] = normal(2, heads, 7, size, seed=index)
            found[f"past.{index}.value"] = normal(2, heads, 7, size, seed=index + 50)
        return found

    free: dict[str, dict[int, str]] = {"input_ids": {0: "batch"}, "attention_mask": {0: "batch", 1: "all"}}
    for index in range(layers):
        free |= {f"past.{index}.{kind}": {0: "batch", 2: "past"} for kind in ("key", "value")}
    return build, feeds, free


GPT = {"vocab_size": WORDS, "n_embd": 96, "n_layer": 2, "n_head": 4, "n_positions": 64}
SMALL = {
    "vocab_size": WORDS,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 192,
}
for name, parts, words in (
    ("gpt2-step", _step("GPT2LMHeadModel", lambda: tr.GPT2Config(**GPT), 2, 4, 24), "ts17 ts17-dyn dy18-dyn"),
    ("llama-step", _step("LlamaForCausalLM", _llama(), 3, 2, 16), "ts13 ts17-dyn dy18-dyn"),
    ("llama-sdpa-step", _step("LlamaForCausalLM", _llama(), 3, 2, 16, "sdpa"), "ts17-dyn dy20-dyn"),
    ("gemma3-step", _step("Gemma3ForCausalLM", _llama("Gemma3TextConfig"), 3, 2, 16), "ts17-dyn"),
    ("qwen3-step", _step("Qwen3ForCausalLM", _llama("Qwen3Config"), 3, 2, 16), "ts17 dy18-dyn"),
    ("neox-step", _step("GPTNeoXForCausalLM", lambda: tr.GPTNeoXConfig(**SMALL, max_position_embeddings=64), 2, 4, 24), "ts17-dyn"),
    ("bloom-step", _step("BloomForCausalLM", lambda: tr.BloomConfig(vocab_size=WORDS, hidden_size=96, n_layer=2, n_head=4), 2, 4, 24), "ts17-dyn"),
):  # fmt: skip
    _variants(name, "decoder with caches", *parts, words)

for name, model, side, words, options in (
    ("vgg-bn", "vgg11_bn", 64, "raw18-dyn", {}),
    ("gernet", "gernet_s", 64, "ts17-dyn", {}),
    ("sebotnet", "sebotnet33ts_256", 256, "ts17", {}),
    ("resnetrs", "resnetrs50", 64, "raw20-dyn", {}),
    ("mixnet", "mixnet_s", 64, "ts11-dyn", {}),
    ("tinynet", "tinynet_e", 64, "ts9 ts20-dyn", {}),
    ("mci", "fastvit_mci0", 64, "ts17-dyn", {}),
    ("mobilenetv4-conv", "mobilenetv4_conv_small", 64, "ts20-dyn dy21-dyn", {}),
    ("beit3", "beit3_base_patch16_224", 64, "ts17-dyn", {"img_size": 64, "embed_dim": 96, "depth": 2, "num_heads": 4}),
    ("eva", "eva02_tiny_patch14_224", 56, "ts13-dyn raw20-dyn", {"img_size": 56, "depth": 2}),
    ("flexivit", "flexivit_small", 64, "ts20-dyn", {"img_size": 64, "depth": 2}),
    ("dm-nfnet", "nfnet_l0", 64, "ts17-dyn", {}),
    ("vit-gap", "vit_base_patch16_rope_reg1_gap_256", 64, "ts17-dyn dy18-dyn", {"img_size": 64, "embed_dim": 96, "depth": 2, "num_heads": 4}),
    ("convnext-dy", "convnext_atto", 64, "ts20-dyn dy23-dyn", {}),
    ("swin-dy", "swin_tiny_patch4_window7_224", 112, "ts11 ts20-dyn raw20-dyn", {"img_size": 112, "embed_dim": 24, "depths": (2, 2)}),
    ("hiera", "hiera_tiny_224", 224, "ts20-dyn dy23-dyn", {"embed_dim": 48}),
    ("vit-dy", "vit_tiny_patch16_224", 64, "ts9 ts20-dyn dy23-dyn raw23", {"img_size": 64, "depth": 2}),
    ("maxvit-dy", "maxvit_rmlp_pico_rw_256", 128, "dy18-dyn", {"img_size": 128}),
    ("davit-dy", "davit_tiny", 64, "dy18-dyn ts11", {}),
    ("levit-dy", "levit_128s", 224, "dy18-dyn ts11", {}),
    ("cait-dy", "cait_xxs24_224", 64, "dy18-dyn ts11", {"img_size": 64, "depth": 2}),
    ("xcit-dy", "xcit_nano_12_p16_224", 64, "dy18-dyn raw20", {"depth": 2}),
):  # fmt: skip
    _variants(name, "timm", _net(model, **options), _picture(side, 2), BATCH, words)
