"""More families: of timm and transformers those that neither the corpus nor `wider` has, each once or twice, small."""

from __future__ import annotations

from typing import Any

from . import vision_ops  # noqa: F401  (before timm, which imports torchvision)
from .language import WORDS, _encoder, _hf, _llama, _variants, _wave
from .store import normal, tokens
from .timm_nets import BATCH, _net, _picture
from .wider import NO_CACHE, SMALL, _of, _text_net, _vision_net

TIMM: list[tuple[str, str, int, str, dict[str, Any]]] = [
    ("davit", "davit_tiny", 64, "ts17-dyn", {}),
    ("focalnet", "focalnet_tiny_srf", 64, "ts17-dyn", {}),
    ("cspnet", "cs3darknet_focus_s", 64, "ts17-dyn", {}),
    ("iformer", "iformer_t", 96, "ts17-dyn", {}),
    ("efficientvim", "efficientvim_m1", 96, "ts17", {}),
    ("shvit", "shvit_s1", 96, "ts17-dyn", {}),
    ("lowformer", "lowformer_b0", 96, "ts17", {}),
    ("cpubone", "cpubone_nano", 96, "ts17-dyn", {}),
    ("sknet", "skresnet18", 64, "ts17", {}),
    ("gmlp", "gmlp_ti16_224", 64, "ts13-dyn", {"img_size": 64}),
    ("resmlp", "resmlp_12_224", 64, "ts17", {"img_size": 64}),
    ("caformer", "caformer_s18", 64, "ts17-dyn", {}),
    ("mobilevitv2", "mobilevitv2_050", 64, "ts17-dyn", {}),
    ("efficientformerv2", "efficientformerv2_s0", 224, "ts17", {}),
    ("gcresnext", "gcresnext26ts", 64, "ts17", {}),
    ("swinv2cr", "swinv2_cr_tiny_224", 64, "ts17", {"img_size": 64, "window_size": 2}),
    ("visformer", "visformer_tiny", 64, "ts17-dyn", {"img_size": 64}),
    ("vitamin", "vitamin_small_224", 64, "ts17", {"img_size": 64}),
    ("hybrid", "vit_tiny_r_s16_p8_224", 64, "ts17-dyn", {"img_size": 64}),
    ("convnextv2", "convnextv2_atto", 64, "ts17-dyn dy18", {}),
    ("convnext-rms", "convnext_atto_rms", 64, "ts17", {}),
    ("rdnet", "rdnet_tiny", 64, "ts17", {}),
    ("dla", "dla46_c", 64, "ts11", {}),
    ("dpn", "dpn48b", 64, "ts17", {}),
    ("rexnet", "rexnet_100", 64, "ts13-dyn", {}),
    ("selecsls", "selecsls42", 64, "ts17", {}),
    ("vovnet", "ese_vovnet19b_slim", 64, "ts17-dyn", {}),
    ("nasnet", "nasnetalarge", 96, "ts17", {}),
    ("pnasnet", "pnasnet5large", 96, "ts17", {}),
    ("inception-resnet", "inception_resnet_v2", 96, "ts17", {}),
    ("hiera-det", "sam2_hiera_tiny", 64, "ts17", {}),
    ("twins-pcpvt", "twins_pcpvt_small", 64, "ts17-dyn", {}),
    ("levit-conv", "levit_conv_128s", 224, "ts17", {}),
    ("resnet-gn", "resnet50_gn", 64, "ts17-dyn dy18", {}),
    ("resnetv2-frn", "resnetv2_50d_frn", 64, "ts17", {}),
    ("resnetv2-evos", "resnetv2_50d_evos", 64, "ts17", {}),
    ("effnet-gn", "efficientnet_b0_gn", 64, "ts17", {}),
    ("effnet-cc", "efficientnet_cc_b0_4e", 64, "ts17", {}),
    ("vit-par", "vit_tiny_patch16_224", 64, "ts11", {"img_size": 64, "depth": 2}),
    ("deit3", "deit3_small_patch16_224", 64, "ts17-dyn", {"img_size": 64, "depth": 3}),
    ("mobileone", "mobileone_s0", 64, "ts17", {}),
    ("regnetz", "regnetz_b16", 64, "ts17-dyn", {}),
    ("tf-mixnet", "tf_mixnet_s", 64, "ts17", {}),
    ("fbnetv3", "fbnetv3_b", 64, "ts17", {}),
    ("lcnet", "lcnet_050", 64, "ts11", {}),
    ("hardcorenas", "hardcorenas_a", 64, "ts13", {}),
    ("xcit-dyn", "xcit_nano_12_p8_224", 32, "ts17-dyn", {"depth": 2}),
    ("fasternet", "fasternet_t0", 64, "ts17-dyn", {}),
    ("repghost", "repghostnet_050", 64, "ts17", {}),
    ("mobilenetv5", "mobilenetv5_base", 64, "ts17", {}),
    ("qwen3-vit", "qwen3_vit_88m", 64, "ts17", {}),
    ("swin-s3", "swin_s3_tiny_224", 224, "ts17", {}),
    ("maxxvitv2", "maxxvitv2_nano_rw_256", 64, "ts17-dyn", {"img_size": 64}),
    ("coat-mini", "coat_mini", 64, "ts17-dyn", {"img_size": 64}),
    ("mvitv2-cls", "mvitv2_small_cls", 64, "ts17-dyn", {"img_size": 64}),
    ("nf-resnet", "nf_ecaresnet26", 64, "ts17-dyn", {}),
    ("resnet-aa", "resnetaa50", 64, "ts17", {}),
    ("senet", "legacy_seresnet18", 64, "ts17-dyn", {}),
    ("tf-eff-lite", "tf_efficientnet_lite0", 96, "ts17-dyn", {}),
    ("crossvit-dagger", "crossvit_9_dagger_240", 240, "ts17", {}),
    ("efficientvit-l", "efficientvit_l1", 64, "ts17", {}),
    ("ghostnetv2", "ghostnetv2_100", 96, "ts17-dyn", {}),
]
for name, model, side, spellings, options in TIMM:
    _variants(name, model, _net(model, **options), _picture(side, 2), BATCH, spellings)

DYNAMIC, STATIC, BOTH = "ts17-dyn", "ts17", "ts17 ts17-dyn"
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def _small(kind: str, **options: Any) -> Any:
    return _of(kind, **SMALL, **options)


ENCODERS: list[tuple[str, str, str, str, dict[str, Any]]] = [
    ("bigbird", "BigBirdModel", "BigBirdConfig", DYNAMIC, {"attention_type": "original_full"}),
    ("xlmr", "XLMRobertaModel", "XLMRobertaConfig", STATIC, {}),
    ("ernie", "ErnieModel", "ErnieConfig", DYNAMIC, {}),
    ("megatron-bert", "MegatronBertModel", "MegatronBertConfig", STATIC, {}),
    ("ibert", "IBertModel", "IBertConfig", STATIC, {}),
    ("luke", "LukeModel", "LukeConfig", STATIC, {"entity_vocab_size": 10, "entity_emb_size": 16}),
    ("mra", "MraModel", "MraConfig", STATIC, {}),
    ("layoutlm", "LayoutLMModel", "LayoutLMConfig", DYNAMIC, {}),
    ("splinter", "SplinterModel", "SplinterConfig", STATIC, {}),
    (
        "deberta-v1",
        "DebertaModel",
        "DebertaConfig",
        DYNAMIC,
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"]},
    ),
]
for name, model, kind, spellings, options in ENCODERS:
    _text_net(name, model, _encoder(kind, **options), spellings)
_text_net("biogpt", "BioGptForCausalLM", _encoder("BioGptConfig"), DYNAMIC, **NO_CACHE)
_text_net("rembert", "RemBertModel", _small("RemBertConfig", vocab_size=WORDS, input_embedding_size=48, output_embedding_size=48), DYNAMIC)  # fmt: skip
for name, model, kind in (("xlm", "XLMModel", "XLMConfig"), ("flaubert", "FlaubertModel", "FlaubertConfig")):
    _text_net(name, model, _of(kind, vocab_size=WORDS, emb_dim=96, n_layers=2, n_heads=4), DYNAMIC)

GPT = {"vocab_size": WORDS, "n_embd": 96, "n_layer": 2, "n_head": 4, "n_positions": 64}
_text_net("openai-gpt", "OpenAIGPTLMHeadModel", _of("OpenAIGPTConfig", **GPT), DYNAMIC)
_text_net("codegen", "CodeGenForCausalLM", _of("CodeGenConfig", rotary_dim=16, **GPT), DYNAMIC, **NO_CACHE)
_text_net("bigcode", "GPTBigCodeForCausalLM", _of("GPTBigCodeConfig", **GPT), DYNAMIC, **NO_CACHE)
_text_net("ctrl", "CTRLModel", _of("CTRLConfig", dff=128, **GPT), STATIC, **NO_CACHE)
_text_net("gpt-neo", "GPTNeoForCausalLM", _of("GPTNeoConfig", vocab_size=WORDS, hidden_size=96, num_layers=2, attention_types=[[["global", "local"], 1]], num_heads=4, window_size=8, max_position_embeddings=64), BOTH, **NO_CACHE)  # fmt: skip
_text_net("persimmon", "PersimmonForCausalLM", _small("PersimmonConfig", vocab_size=WORDS, **SPECIAL), DYNAMIC, **NO_CACHE)  # fmt: skip
_text_net("xglm", "XGLMForCausalLM", _of("XGLMConfig", vocab_size=WORDS, d_model=96, ffn_dim=128, num_layers=2, attention_heads=4), DYNAMIC, **NO_CACHE)  # fmt: skip
for kind in "Mistral Starcoder2 Olmo StableLm Granite Nemotron SmolLM3 Ernie4_5 Exaone4 Helium".split():
    _text_net(kind.lower().replace("_", ""), f"{kind}ForCausalLM", _llama(f"{kind}Config"), DYNAMIC, **NO_CACHE)
_text_net("gemma3", "Gemma3ForCausalLM", _llama("Gemma3TextConfig"), DYNAMIC, **NO_CACHE)


def _pair_net(name: str, model: str, config: Any, spellings: str) -> None:
    def feeds() -> Any:
        return {
            "input_ids": tokens(2, 12, vocabulary=WORDS),
            "decoder_input_ids": tokens(2, 7, vocabulary=WORDS, seed=1),
        }

    names = ("input_ids", "decoder_input_ids")
    free = {"input_ids": {0: "batch", 1: "length"}, "decoder_input_ids": {0: "batch", 1: "target"}}
    _variants(name, model, _hf(model, config, names, **NO_CACHE), feeds, free, spellings)


BART = {"vocab_size": WORDS, "d_model": 96, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64, "decoder_start_token_id": 1}  # fmt: skip
for kind, spellings in (("Pegasus", DYNAMIC), ("Marian", DYNAMIC), ("MBart", STATIC), ("M2M100", STATIC), ("Blenderbot", STATIC), ("PLBart", STATIC)):  # fmt: skip
    _pair_net(kind.lower(), f"{kind}Model", _of(f"{kind}Config", **BART, **SPECIAL), spellings)
T5 = {"vocab_size": WORDS, "d_model": 96, "d_kv": 24, "d_ff": 128, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}  # fmt: skip
_pair_net("mt5", "MT5Model", _of("MT5Config", **T5), DYNAMIC)
_pair_net("longt5", "LongT5Model", _of("LongT5Config", local_radius=4, **T5), STATIC)
_pair_net("umt5", "UMT5Model", _of("UMT5Config", **T5), STATIC)

FOUR = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1]}
WINDOWS = {"image_size": 64, "embed_dim": 24, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4}
_vision_net("hf-resnet", "ResNetModel", _of("ResNetConfig", embedding_size=16, layer_type="basic", **FOUR), DYNAMIC)
_vision_net("hf-convnextv2", "ConvNextV2Model", _of("ConvNextV2Config", **FOUR), DYNAMIC)
_vision_net("hf-swin", "SwinModel", _of("SwinConfig", **WINDOWS), DYNAMIC)
_vision_net("hf-swinv2", "Swinv2Model", _of("Swinv2Config", **WINDOWS), DYNAMIC)
_vision_net("hf-focalnet", "FocalNetModel", _of("FocalNetConfig", image_size=64, embed_dim=24, depths=[2, 2]), DYNAMIC)
_vision_net("hf-mobilevit", "MobileViTModel", _of("MobileViTConfig", image_size=64, hidden_sizes=[32, 48, 64], neck_hidden_sizes=[8, 16, 24, 32, 48, 64, 96]), DYNAMIC)  # fmt: skip
_vision_net("hf-pvt", "PvtModel", _of("PvtConfig", image_size=64, num_attention_heads=[1, 2, 3, 4], **FOUR), DYNAMIC)
_vision_net("hf-poolformer", "PoolFormerModel", _of("PoolFormerConfig", **FOUR), DYNAMIC)
_vision_net("hf-bit", "BitModel", _of("BitConfig", embedding_size=16, num_groups=4, **FOUR), DYNAMIC)
_vision_net("vitmsn", "ViTMSNModel", _small("ViTMSNConfig", image_size=64), DYNAMIC)
_vision_net("data2vec-vision", "Data2VecVisionModel", _small("Data2VecVisionConfig", image_size=64, use_relative_position_bias=True), STATIC)  # fmt: skip
_vision_net(
    "clipseg-vision", "CLIPSegVisionModel", _small("CLIPSegVisionConfig", image_size=64, patch_size=16), DYNAMIC
)
_vision_net("blip-vision", "BlipVisionModel", _small("BlipVisionConfig", image_size=64, patch_size=16), DYNAMIC)
_vision_net("pixtral", "PixtralVisionModel", _small("PixtralVisionConfig", image_size=64, patch_size=16), STATIC)
_vision_net("ijepa", "IJepaModel", _small("IJepaConfig", image_size=64, patch_size=16), DYNAMIC)

EARS = {"conv_dim": (32,) * 4, "conv_stride": (5, 4, 4, 2), "conv_kernel": (10, 8, 4, 4), "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}  # fmt: skip
for name, kind in (
    ("unispeech", "UniSpeech"),
    ("unispeech-sat", "UniSpeechSat"),
    ("w2v-conformer", "Wav2Vec2Conformer"),
):
    build = _hf(f"{kind}Model", _small(f"{kind}Config", **EARS), ("input_values",))
    _variants(name, f"{kind}Model", build, _wave, {"input_values": {1: "samples"}}, DYNAMIC)
_variants("w2v-bert", "Wav2Vec2BertModel", _hf("Wav2Vec2BertModel", _small("Wav2Vec2BertConfig", feature_projection_input_dim=40), ("input_features",)), lambda: {"input_features": normal(1, 20, 40)}, {"input_features": {1: "frames"}}, DYNAMIC)  # fmt: skip
_variants("patchtsmixer", "PatchTSMixerModel", _hf("PatchTSMixerModel", _of("PatchTSMixerConfig", context_length=64, patch_length=8, patch_stride=8, num_input_channels=3, d_model=16, num_layers=2), ("past_values",)), lambda: {"past_values": normal(1, 64, 3)}, {"past_values": {0: "batch"}}, DYNAMIC)  # fmt: skip
_variants("dac", "DacModel", _hf("DacModel", _of("DacConfig", encoder_hidden_size=8, downsampling_ratios=[2, 4], decoder_hidden_size=32, n_codebooks=2, codebook_size=32, codebook_dim=4), ("input_values",)), lambda: {"input_values": normal(1, 1, 256)}, {}, STATIC)  # fmt: skip
