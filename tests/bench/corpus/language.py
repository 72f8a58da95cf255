"""Language, speech and vision-language networks of transformers: small configurations, random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers as tr

from . import vision_ops  # noqa: F401
from .export import Only, dynamo, torchscript
from .store import Feeds, add, image, normal, tokens

WORDS = 1000
TS, DY = "TorchScript", "dynamo"


def _hf(model: str, config: Any, names: tuple[str, ...], attention: str = "eager", **fixed: Any) -> Any:
    """A Hugging Face model of random weights, called with the named inputs."""

    def build() -> Only:
        made = config()
        made._attn_implementation = attention
        return Only(getattr(tr, model)(made), names, **fixed)

    return build


def _text(length: int, *more: str, batch: int = 2) -> Any:
    def feeds() -> Feeds:
        found: Feeds = {"input_ids": tokens(batch, length, vocabulary=WORDS)}
        for name in more:
            found[name] = np.ones((batch, length), np.int64) if "mask" in name else np.zeros((batch, length), np.int64)
        return found

    return feeds


def _free(*names: str) -> dict[str, dict[int, str]]:
    return {name: {0: "batch", 1: "length"} for name in names}


def _encoder(kind: str, **more: Any) -> Any:
    return lambda: getattr(tr, kind)(
        vocab_size=WORDS, hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192,
        max_position_embeddings=130, **more,
    )  # fmt: skip


def _llama(kind: str = "LlamaConfig", **more: Any) -> Any:
    return lambda: getattr(tr, kind)(
        vocab_size=WORDS, hidden_size=96, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
        intermediate_size=192, max_position_embeddings=128, **{"head_dim": 16, "pad_token_id": 0, **more},
    )  # fmt: skip


def _variants(name: str, family: str, build: Any, feeds: Any, free: Any, spellings: str) -> None:
    """spellings: words such as 'ts13', 'ts17-dyn', 'dy18', 'raw18-dyn'."""
    for word in spellings.split():
        how, _, dynamic = word.partition("-")
        opset = int(how[2:] if how[:2] in ("ts", "dy") else how[3:])
        axes = free if dynamic else None
        if how.startswith("ts"):
            add(f"{name}-{word}", family, f"{TS} {word[2:]}", torchscript(build, feeds, opset, axes))
        else:
            raw = how.startswith("raw")
            label = f"{DY} {opset}{'-dyn' if dynamic else ''}{', not optimized' if raw else ''}"
            add(f"{name}-{word}", family, label, dynamo(build, feeds, opset, axes, optimize=not raw))


BERT = ("input_ids", "attention_mask", "token_type_ids")
MASKED = ("input_ids", "attention_mask")
_variants(
    "bert", "BERT", _hf("BertModel", _encoder("BertConfig"), BERT), _text(24, *BERT[1:]), _free(*BERT),
    "ts11 ts13-dyn ts17-dyn dy18 dy20-dyn raw18-dyn",
)  # fmt: skip
_variants(
    "bert-sdpa", "BERT", _hf("BertForSequenceClassification", _encoder("BertConfig"), BERT, "sdpa"),
    _text(24, *BERT[1:]), _free(*BERT), "ts17 dy18-dyn",
)  # fmt: skip
_variants(
    "distilbert", "DistilBERT",
    _hf("DistilBertForSequenceClassification", lambda: tr.DistilBertConfig(vocab_size=WORDS, dim=96, n_layers=3, n_heads=4, hidden_dim=192, max_position_embeddings=64), MASKED),
    _text(16, "attention_mask"), _free(*MASKED), "ts13-dyn dy18",
)  # fmt: skip
_variants(
    "roberta", "BERT", _hf("RobertaForTokenClassification", _encoder("RobertaConfig"), MASKED), _text(20, "attention_mask"),
    _free(*MASKED), "ts17-dyn",
)  # fmt: skip
_variants(
    "albert", "BERT, shared layers",
    _hf("AlbertModel", _encoder("AlbertConfig", embedding_size=64), MASKED), _text(20, "attention_mask"), _free(*MASKED), "ts14 dy18",
)  # fmt: skip
_variants(
    "electra", "BERT", _hf("ElectraModel", _encoder("ElectraConfig", embedding_size=48), MASKED), _text(20, "attention_mask"),
    _free(*MASKED), "ts17",
)  # fmt: skip
_variants(
    "deberta", "DeBERTa, disentangled attention",
    _hf("DebertaV2Model", _encoder("DebertaV2Config", relative_attention=True, pos_att_type=["c2p", "p2c"], position_buckets=16), MASKED),
    _text(16, "attention_mask"), _free(*MASKED), "ts17",
)  # fmt: skip
_variants(
    "mpnet", "BERT, relative position", _hf("MPNetModel", _encoder("MPNetConfig"), MASKED), _text(16, "attention_mask"),
    _free(*MASKED), "ts17-dyn",
)  # fmt: skip
_variants(
    "modernbert", "BERT, rotary",
    _hf("ModernBertModel", lambda: tr.ModernBertConfig(vocab_size=WORDS, hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=160, max_position_embeddings=128, local_attention=16, pad_token_id=0, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2), MASKED),
    _text(24, "attention_mask"), _free(*MASKED), "ts17 dy18",
)  # fmt: skip
_variants(
    "gpt2", "GPT-2, tied embedding",
    _hf("GPT2LMHeadModel", lambda: tr.GPT2Config(vocab_size=WORDS, n_embd=96, n_layer=3, n_head=4, n_positions=64), MASKED, use_cache=False),
    _text(16, "attention_mask"), _free(*MASKED), "ts13 ts17-dyn dy18 raw18-dyn",
)  # fmt: skip
_variants(
    "gpt-neox", "GPT, rotary", _hf("GPTNeoXForCausalLM", _encoder("GPTNeoXConfig"), MASKED, use_cache=False),
    _text(16, "attention_mask"), _free(*MASKED), "ts17-dyn",
)  # fmt: skip
_variants(
    "opt", "GPT", _hf("OPTForCausalLM", lambda: tr.OPTConfig(vocab_size=WORDS, hidden_size=96, num_hidden_layers=3, ffn_dim=192, num_attention_heads=4, max_position_embeddings=64, word_embed_proj_dim=96), MASKED, use_cache=False),
    _text(16, "attention_mask"), _free(*MASKED), "ts17-dyn",
)  # fmt: skip
_variants(
    "llama", "Llama, RMSNorm, rotary, GQA, SwiGLU", _hf("LlamaForCausalLM", _llama(), MASKED, use_cache=False),
    _text(16, "attention_mask"), _free(*MASKED), "ts13 ts17-dyn dy18 dy23 raw18-dyn",
)  # fmt: skip
add(
    "llama-half", "Llama, fp16", f"{TS} 17, half()",
    torchscript(_hf("LlamaForCausalLM", _llama(), MASKED, use_cache=False), _text(16, "attention_mask"), 17, half=True),
)  # fmt: skip
_variants(
    "llama-masked", "Llama, RMSNorm, rotary, GQA, SwiGLU", _hf("LlamaModel", _llama(), MASKED, "sdpa", use_cache=False),
    _text(16, "attention_mask"), _free(*MASKED), "ts17 dy20",
)  # fmt: skip
_variants(
    "qwen2", "Llama-like", _hf("Qwen2ForCausalLM", _llama("Qwen2Config"), MASKED, use_cache=False), _text(16, "attention_mask"),
    _free(*MASKED), "ts17-dyn",
)  # fmt: skip
_variants(
    "gemma", "Llama-like, tied embedding", _hf("GemmaForCausalLM", _llama("GemmaConfig"), MASKED, use_cache=False),
    _text(16, "attention_mask"), _free(*MASKED), "ts17 dy18",
)  # fmt: skip
_variants(
    "phi3", "Llama-like", _hf("Phi3ForCausalLM", _llama("Phi3Config", eos_token_id=2), ("input_ids",), use_cache=False), _text(16),
    _free("input_ids"), "dy18",
)  # fmt: skip


def _pair(length: int, made: int) -> Any:
    return lambda: {
        "input_ids": tokens(1, length, vocabulary=WORDS),
        "decoder_input_ids": tokens(1, made, vocabulary=WORDS, seed=1),
    }


_variants(
    "t5", "encoder-decoder",
    _hf("T5ForConditionalGeneration", lambda: tr.T5Config(vocab_size=WORDS, d_model=96, d_kv=24, d_ff=192, num_layers=2, num_heads=4, decoder_start_token_id=0), ("input_ids", "decoder_input_ids"), use_cache=False),
    _pair(16, 8), {"input_ids": {0: "batch", 1: "length"}, "decoder_input_ids": {0: "batch", 1: "made"}}, "ts13-dyn dy18",
)  # fmt: skip
_variants(
    "bart", "encoder-decoder",
    _hf("BartForConditionalGeneration", lambda: tr.BartConfig(vocab_size=WORDS, d_model=96, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=192, decoder_ffn_dim=192, max_position_embeddings=64), ("input_ids", "decoder_input_ids"), use_cache=False),
    _pair(16, 8), {}, "ts17",
)  # fmt: skip
_variants(
    "whisper-encoder", "speech",
    _hf("WhisperModel", lambda: tr.WhisperConfig(vocab_size=WORDS, d_model=96, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=192, decoder_ffn_dim=192, max_source_positions=50, max_target_positions=32, num_mel_bins=40, pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1), ("input_features", "decoder_input_ids", "decoder_attention_mask"), use_cache=False),
    lambda: {"input_features": normal(1, 40, 100), "decoder_input_ids": tokens(1, 8, vocabulary=WORDS), "decoder_attention_mask": np.ones((1, 8), np.int64)}, {}, "ts17 dy18",
)  # fmt: skip


def _wave() -> Feeds:
    time = np.arange(8000) / 16000
    return {"input_values": (np.sin(1300 * time) * np.sin(9 * time))[None].astype(np.float32) + 0.05 * normal(1, 8000)}


_variants(
    "wav2vec2", "speech",
    _hf("Wav2Vec2ForCTC", lambda: tr.Wav2Vec2Config(vocab_size=32, hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192, conv_dim=(64,) * 4, conv_stride=(5, 4, 4, 2), conv_kernel=(10, 8, 4, 4), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4), ("input_values",)),
    _wave, {"input_values": {1: "samples"}}, "ts13 ts17-dyn dy18",
)  # fmt: skip
_variants(
    "clip-vision", "ViT, CLIP",
    _hf("CLIPVisionModel", lambda: tr.CLIPVisionConfig(hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, image_size=64, patch_size=16), ("pixel_values",)),
    lambda: {"pixel_values": image(1, 3, 64, 64)}, {"pixel_values": {0: "batch"}}, "ts17-dyn dy18",
)  # fmt: skip
_variants(
    "clip-text", "text, CLIP",
    _hf("CLIPTextModel", lambda: tr.CLIPTextConfig(vocab_size=WORDS, hidden_size=96, intermediate_size=192, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=32, eos_token_id=2), ("input_ids",)),
    _text(16), _free("input_ids"), "ts17",
)  # fmt: skip
_variants(
    "segformer", "segmentation",
    _hf("SegformerForSemanticSegmentation", lambda: tr.SegformerConfig(hidden_sizes=[16, 32, 64, 96], depths=[1, 1, 1, 1], decoder_hidden_size=64, num_labels=8), ("pixel_values",)),
    lambda: {"pixel_values": image(1, 3, 96, 96)}, {"pixel_values": {0: "batch", 2: "height", 3: "width"}}, "ts13 ts17-dyn dy18",
)  # fmt: skip
_variants(
    "dpt", "depth estimation",
    _hf("DPTForDepthEstimation", lambda: tr.DPTConfig(hidden_size=96, num_hidden_layers=4, num_attention_heads=4, intermediate_size=192, image_size=64, patch_size=16, backbone_out_indices=[0, 1, 2, 3], neck_hidden_sizes=[16, 32, 48, 64], fusion_hidden_size=32, is_hybrid=False), ("pixel_values",)),
    lambda: {"pixel_values": image(1, 3, 64, 64)}, {}, "ts17 dy18",
)  # fmt: skip
_variants(
    "depth-anything", "depth estimation",
    _hf("DepthAnythingForDepthEstimation", lambda: tr.DepthAnythingConfig(backbone_config=tr.Dinov2Config(hidden_size=96, num_hidden_layers=4, num_attention_heads=4, image_size=70, patch_size=14, out_indices=[1, 2, 3, 4], reshape_hidden_states=False, apply_layernorm=True), reassemble_hidden_size=96, neck_hidden_sizes=[16, 32, 48, 64], fusion_hidden_size=32, patch_size=14), ("pixel_values",)),
    lambda: {"pixel_values": image(1, 3, 70, 70)}, {}, "ts17",
)  # fmt: skip
_variants(
    "detr", "detection, DETR",
    _hf("DetrForObjectDetection", lambda: tr.DetrConfig(use_timm_backbone=True, use_pretrained_backbone=False, backbone="resnet18", backbone_config=None, d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=20, num_labels=10), ("pixel_values",)),
    lambda: {"pixel_values": image(1, 3, 96, 96)}, {}, "ts17",
)  # fmt: skip
_variants(
    "yolos", "detection, ViT",
    _hf("YolosForObjectDetection", lambda: tr.YolosConfig(hidden_size=96, num_hidden_layers=3, num_attention_heads=4, intermediate_size=192, image_size=[64, 64], patch_size=16, num_detection_tokens=20), ("pixel_values",)),
    lambda: {"pixel_values": image(1, 3, 64, 64)}, {}, "ts17 dy18",
)  # fmt: skip
_variants(
    "deformable-detr", "detection, deformable",
    _hf("RTDetrForObjectDetection", lambda: tr.RTDetrConfig(d_model=64, encoder_hidden_dim=64, encoder_ffn_dim=128, decoder_ffn_dim=128, encoder_attention_heads=4, decoder_attention_heads=4, decoder_layers=2, num_queries=30, num_labels=10, encoder_in_channels=[32, 64, 128], decoder_in_channels=[64, 64, 64], backbone_config=tr.RTDetrResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage2", "stage3", "stage4"]), anchor_image_size=[128, 128]), ("pixel_values",)),
    lambda: {"pixel_values": image(1, 3, 128, 128)}, {}, "ts17 dy18",
)  # fmt: skip
_variants(
    "conformer", "speech",
    _hf("Wav2Vec2ConformerModel", lambda: tr.Wav2Vec2ConformerConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, conv_dim=(32,) * 4, conv_stride=(5, 4, 4, 2), conv_kernel=(10, 8, 4, 4), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, conv_depthwise_kernel_size=15, position_embeddings_type="relative"), ("input_values",)),
    _wave, {}, "ts17",
)  # fmt: skip
_variants(
    "mamba", "state space",
    _hf("MambaModel", lambda: tr.MambaConfig(vocab_size=WORDS, hidden_size=48, num_hidden_layers=1, state_size=8), ("input_ids",), use_cache=False),
    _text(6, batch=1), {}, "ts17",
)  # fmt: skip
_variants(
    "timesformer", "video",
    _hf("VideoMAEModel", lambda: tr.VideoMAEConfig(hidden_size=96, num_hidden_layers=2, num_attention_heads=4, intermediate_size=192, image_size=32, patch_size=16, num_frames=4), ("pixel_values",)),
    lambda: {"pixel_values": image(1, 4, 3, 32, 32)}, {}, "ts17",
)  # fmt: skip
