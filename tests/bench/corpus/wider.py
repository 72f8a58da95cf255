"""Families that the other generators do not have: each once or twice, small, with random weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import transformers as tr

from . import vision_ops  # noqa: F401  (before timm, which imports torchvision)
from .language import MASKED, WORDS, _encoder, _free, _hf, _llama, _text, _variants, _wave
from .store import Feeds, image, normal
from .timm_nets import BATCH, _net, _picture

TIMM: list[tuple[str, str, int, str, dict[str, Any]]] = [
    ("efficientvit-b", "efficientvit_b0", 96, "ts17-dyn dy18", {}),
    ("efficientvit-m", "efficientvit_m0", 224, "ts17", {}),
    ("mobilenetv4", "mobilenetv4_hybrid_medium", 96, "dy18", {}),
    ("convmixer", "convmixer_768_32", 56, "ts13-dyn", {}),
    ("mvitv2", "mvitv2_tiny", 64, "ts17 dy18", {"img_size": 64}),
    ("crossvit", "crossvit_tiny_240", 240, "ts17-dyn", {}),
    ("tnt", "tnt_s_legacy_patch16_224", 64, "ts17", {"img_size": 64, "depth": 3}),
    ("cait", "cait_xxs24_224", 64, "ts17-dyn", {"img_size": 64, "depth": 3}),
    ("twins", "twins_svt_small", 224, "ts17", {}),
    ("hgnetv2", "hgnetv2_b0", 96, "ts17", {}),
    ("repvit", "repvit_m0_9", 96, "ts17-dyn", {}),
    ("inception-next", "inception_next_atto", 96, "dy18", {}),
    ("sequencer", "sequencer2d_s", 64, "ts17", {"img_size": 64, "layers": (1, 1, 1, 1)}),
    ("tinyvit", "tiny_vit_5m_224", 224, "ts17-dyn", {}),
    ("hiera", "hiera_tiny_224", 224, "ts17 dy18", {"embed_dim": 48}),
    ("starnet", "starnet_s1", 96, "ts17", {}),
    ("swiftformer", "swiftformer_xs", 224, "ts17-dyn", {}),
    ("resnest", "resnest14d", 64, "ts17-dyn", {}),
    ("convit", "convit_tiny", 64, "ts17", {"img_size": 64, "depth": 3}),
    ("nest", "nest_tiny", 224, "ts17", {}),
    ("coat", "coat_lite_tiny", 64, "ts17", {"img_size": 64}),
    ("botnet", "botnet26t_256", 256, "ts17", {}),
    ("lambda-resnet", "lambda_resnet26t", 128, "ts17-dyn", {}),
    ("eca-resnet", "ecaresnet26t", 64, "ts13", {}),
    ("mambaout", "mambaout_femto", 96, "dy18", {}),
    ("nextvit", "nextvit_small", 96, "ts17-dyn", {}),
    ("xception", "xception41", 64, "ts13", {}),
    ("tresnet", "tresnet_m", 64, "ts17", {}),
    ("ghostnetv3", "ghostnetv3_050", 96, "ts17", {}),
    ("vit-relpos", "vit_relpos_small_patch16_224", 64, "ts17", {"img_size": 64, "depth": 3}),
    ("samvit", "samvit_base_patch16", 64, "ts17", {"img_size": 64, "embed_dim": 96, "depth": 3, "num_heads": 4}),
    ("pit", "pit_ti_224", 224, "ts17-dyn", {}),
    ("bit", "resnetv2_50x1_bit", 64, "ts17-dyn", {}),
]
for name, model, side, spellings, options in TIMM:
    _variants(name, model, _net(model, **options), _picture(side, 2), BATCH, spellings)

SMALL = {"hidden_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 192}
PIXELS = ("pixel_values",)
NO_CACHE = {"use_cache": False}


def _text_net(name: str, model: str, config: Any, spellings: str, length: int = 16, **fixed: Any) -> None:
    _variants(
        name, model, _hf(model, config, MASKED, **fixed), _text(length, "attention_mask"), _free(*MASKED), spellings
    )


def _vision_net(name: str, model: str, config: Any, spellings: str, side: int = 64, **fixed: Any) -> None:
    def feeds() -> Feeds:
        return {"pixel_values": image(1, 3, side, side)}

    _variants(name, model, _hf(model, config, PIXELS, **fixed), feeds, {"pixel_values": {0: "batch"}}, spellings)


def _of(kind: str, **options: Any) -> Any:
    return lambda: getattr(tr, kind)(**options)


_text_net("mobilebert", "MobileBertModel", _of("MobileBertConfig", vocab_size=WORDS, num_hidden_layers=2, hidden_size=128, embedding_size=32, intra_bottleneck_size=32, intermediate_size=64), "ts17-dyn dy18")  # fmt: skip
_text_net("roformer", "RoFormerModel", _encoder("RoFormerConfig"), "ts17 ts17-dyn dy18")
_text_net("longformer", "LongformerModel", _encoder("LongformerConfig", attention_window=8), "ts17", 32)
_text_net("funnel", "FunnelBaseModel", _of("FunnelConfig", vocab_size=WORDS, block_sizes=[1, 1], d_model=96, n_head=4, d_head=24, d_inner=192), "ts17")  # fmt: skip
_variants("fnet", "FNetModel", _hf("FNetModel", _encoder("FNetConfig", use_tpu_fourier_optimizations=True, tpu_short_seq_length=16), ("input_ids",)), _text(16), {}, "dy18")  # fmt: skip
_text_net("squeezebert", "SqueezeBertModel", _encoder("SqueezeBertConfig", embedding_size=96), "ts17-dyn")
_text_net("convbert", "ConvBertModel", _encoder("ConvBertConfig", embedding_size=96), "ts17")
_text_net(
    "nystromformer",
    "NystromformerModel",
    _encoder("NystromformerConfig", num_landmarks=8, segment_means_seq_len=16),
    "ts17",
)
_text_net(
    "esm",
    "EsmModel",
    _encoder("EsmConfig", position_embedding_type="rotary", mask_token_id=4, pad_token_id=1),
    "ts17-dyn dy18",
)
_text_net("xlnet", "XLNetModel", _of("XLNetConfig", vocab_size=WORDS, d_model=96, n_layer=2, n_head=4, d_inner=192), "ts17", 16, use_mems=False)  # fmt: skip
_text_net("bloom", "BloomForCausalLM", _of("BloomConfig", vocab_size=WORDS, hidden_size=96, n_layer=2, n_head=4), "ts17-dyn dy18", **NO_CACHE)  # fmt: skip
_text_net("mpt", "MptForCausalLM", _of("MptConfig", vocab_size=WORDS, d_model=96, n_layers=2, n_heads=4, max_seq_len=64), "ts17", **NO_CACHE)  # fmt: skip
_text_net("falcon", "FalconForCausalLM", _of("FalconConfig", vocab_size=WORDS, hidden_size=96, num_hidden_layers=2, num_attention_heads=4, alibi=False), "ts17-dyn dy18", **NO_CACHE)  # fmt: skip
_text_net("gptj", "GPTJForCausalLM", _of("GPTJConfig", vocab_size=WORDS, n_embd=96, n_layer=2, n_head=4, rotary_dim=16, n_positions=64), "ts17 dy18", **NO_CACHE)  # fmt: skip
_text_net("gemma2", "Gemma2ForCausalLM", _llama("Gemma2Config"), "ts17 dy18", **NO_CACHE)
_text_net("qwen3", "Qwen3ForCausalLM", _llama("Qwen3Config"), "ts17-dyn dy20", **NO_CACHE)
_text_net("olmo2", "Olmo2ForCausalLM", _llama("Olmo2Config"), "dy18-dyn", **NO_CACHE)
_text_net("cohere", "CohereForCausalLM", lambda: tr.CohereConfig(vocab_size=WORDS, **SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2), "ts17", **NO_CACHE)  # fmt: skip
_text_net("phi", "PhiForCausalLM", lambda: tr.PhiConfig(vocab_size=WORDS, **SMALL, pad_token_id=0, bos_token_id=1, eos_token_id=2), "ts17-dyn", **NO_CACHE)  # fmt: skip
_variants("xlstm", "xLSTMModel", _hf("xLSTMModel", _of("xLSTMConfig", vocab_size=WORDS, hidden_size=64, num_hidden_layers=1, num_heads=2, num_blocks=1), ("input_ids",), use_cache=False), _text(8, batch=1), {}, "ts17")  # fmt: skip
_variants("mamba2", "Mamba2Model", _hf("Mamba2Model", _of("Mamba2Config", vocab_size=WORDS, hidden_size=64, num_hidden_layers=1, num_heads=8, head_dim=16, state_size=16, n_groups=2, chunk_size=8), ("input_ids",), use_cache=False), _text(8, batch=1), {}, "ts17")  # fmt: skip

_vision_net("dinov2", "Dinov2Model", lambda: tr.Dinov2Config(**SMALL, image_size=70, patch_size=14), "ts17-dyn", 70)
_vision_net("dinov3", "DINOv3ViTModel", lambda: tr.DINOv3ViTConfig(**SMALL, image_size=64, patch_size=16), "ts17 dy18")
_vision_net("sam-vision", "SamVisionModel", lambda: tr.SamVisionConfig(**{k: v for k, v in SMALL.items() if k != "intermediate_size"}, image_size=64, patch_size=8, output_channels=32, window_size=4, global_attn_indexes=[1], mlp_dim=128), "ts17 dy18", 64)  # fmt: skip
_vision_net("groupvit", "GroupViTVisionModel", lambda: tr.GroupViTVisionConfig(hidden_size=96, intermediate_size=192, depths=[1, 1, 1], num_group_tokens=[8, 4, 0], num_output_groups=[8, 4, 0], num_attention_heads=4, image_size=64, patch_size=16), "ts17", 64)  # fmt: skip
_vision_net("superpoint", "SuperPointForKeypointDetection", lambda: tr.SuperPointConfig(encoder_hidden_sizes=[16, 16, 32, 32], decoder_hidden_size=32, descriptor_decoder_dim=32, keypoint_decoder_dim=65), "ts17", 64)  # fmt: skip
_vision_net(
    "siglip", "SiglipVisionModel", lambda: tr.SiglipVisionConfig(**SMALL, image_size=64, patch_size=16), "ts17-dyn dy18"
)
_vision_net(
    "cvt", "CvtModel", _of("CvtConfig", embed_dim=[16, 32, 64], num_heads=[1, 2, 4], depth=[1, 1, 1]), "ts17-dyn", 64
)
_vision_net("swin2sr", "Swin2SRForImageSuperResolution", _of("Swin2SRConfig", image_size=32, embed_dim=24, depths=[2], num_heads=[2], window_size=4, upscale=2), "ts17", 32)  # fmt: skip
_vision_net("vitpose", "VitPoseForPoseEstimation", lambda: tr.VitPoseConfig(backbone_config=tr.VitPoseBackboneConfig(hidden_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=[64, 48], patch_size=[16, 16], out_indices=[2]), use_simple_decoder=False), "dy18", 64)  # fmt: skip
_vision_net("vitdet", "VitDetModel", _of("VitDetConfig", hidden_size=96, num_hidden_layers=2, num_attention_heads=4, image_size=64, pretrain_image_size=64, patch_size=8, window_size=4, window_block_indices=[0], use_relative_position_embeddings=True), "ts17", 64)  # fmt: skip
_vision_net("conditional-detr", "ConditionalDetrForObjectDetection", lambda: tr.ConditionalDetrConfig(use_timm_backbone=True, use_pretrained_backbone=False, backbone="resnet18", backbone_config=None, d_model=64, encoder_layers=1, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128, num_queries=20, num_labels=10), "ts17", 96)  # fmt: skip
_vision_net("d-fine", "DFineForObjectDetection", lambda: tr.DFineConfig(d_model=64, encoder_hidden_dim=64, encoder_ffn_dim=128, decoder_ffn_dim=128, encoder_attention_heads=4, decoder_attention_heads=4, decoder_layers=2, num_queries=30, num_labels=10, encoder_in_channels=[32, 64, 128], decoder_in_channels=[64, 64, 64], backbone_config=tr.RTDetrResNetConfig(embedding_size=16, hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], layer_type="basic", out_features=["stage2", "stage3", "stage4"]), anchor_image_size=[128, 128]), "ts17", 128)  # fmt: skip

for name, model, kind in (("hubert", "HubertModel", "HubertConfig"), ("wavlm", "WavLMModel", "WavLMConfig"), ("sew", "SEWModel", "SEWConfig"), ("data2vec", "Data2VecAudioModel", "Data2VecAudioConfig")):  # fmt: skip
    more = {"conv_pos_kernel_size": 7} if name == "data2vec" else {}
    config = _of(kind, **SMALL, conv_dim=(32,) * 4, conv_stride=(5, 4, 4, 2), conv_kernel=(10, 8, 4, 4), num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4, **more)  # fmt: skip
    _variants(
        name, model, _hf(model, config, ("input_values",)), _wave, {"input_values": {1: "samples"}}, "ts17 ts17-dyn"
    )
_variants("ast", "ASTModel", _hf("ASTModel", lambda: tr.ASTConfig(**SMALL, max_length=64, num_mel_bins=32), ("input_values",)), lambda: {"input_values": normal(1, 64, 32)}, {"input_values": {0: "batch"}}, "ts17-dyn dy18")  # fmt: skip
_variants("vits", "VitsModel", _hf("VitsModel", _of("VitsConfig", vocab_size=40, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, ffn_dim=64, flow_size=32, upsample_initial_channel=64, spectrogram_bins=65, use_stochastic_duration_prediction=False, noise_scale=0.0), ("input_ids",)), lambda: {"input_ids": np.random.default_rng(0).integers(1, 40, (1, 12))}, {}, "ts17")  # fmt: skip
_variants("hifigan", "SpeechT5HifiGan", _hf("SpeechT5HifiGan", _of("SpeechT5HifiGanConfig", model_in_dim=40, upsample_initial_channel=64), ("spectrogram",)), lambda: {"spectrogram": normal(1, 20, 40)}, {"spectrogram": {1: "frames"}}, "ts17 dy18")  # fmt: skip
_variants("encodec", "EncodecModel", _hf("EncodecModel", _of("EncodecConfig", num_filters=8, hidden_size=32, codebook_dim=32, upsampling_ratios=[4, 2], codebook_size=64), ("input_values",)), lambda: {"input_values": normal(1, 1, 960)}, {}, "ts17")  # fmt: skip
_variants("patchtst", "PatchTSTModel", _hf("PatchTSTModel", _of("PatchTSTConfig", num_input_channels=3, context_length=64, patch_length=8, patch_stride=8, d_model=32, num_attention_heads=4, num_hidden_layers=2, ffn_dim=64), ("past_values",)), lambda: {"past_values": normal(1, 64, 3)}, {}, "ts17 dy18")  # fmt: skip
_variants("perceiver", "PerceiverModel", _hf("PerceiverModel", _of("PerceiverConfig", num_latents=8, d_latents=32, d_model=48, num_blocks=1, num_self_attends_per_block=2, num_self_attention_heads=4, num_cross_attention_heads=4), ("inputs",)), lambda: {"inputs": normal(1, 20, 48)}, {"inputs": {0: "batch"}}, "ts17-dyn dy18")  # fmt: skip
