"""What configuration classes leave open, as published checkpoints of these types have it."""

from __future__ import annotations

from typing import Any

_FORECAST = {"prediction_length": 24, "context_length": 96}
_SIGLIP_SIZES = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16, "patch_size": 14}
"""SigLIP's tower of 400 million parameters, which many read images with."""
_SIGLIP = {"model_type": "siglip_vision_model", "vision_use_head": False, **_SIGLIP_SIZES}
_GLM_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5, "mrope_section": [8, 12, 12]}
_SPEECH_PROJECTOR = {
    "model_type": "blip_2_qformer", "hidden_size": 1024, "encoder_hidden_size": 1024, "num_hidden_layers": 2, "num_attention_heads": 16,
    "intermediate_size": 4096, "cross_attention_frequency": 1, "max_position_embeddings": 2048, "use_qformer_text_input": False,
}
_INTRACLASS = {
    "reduce_channel": (1, 1, 0), "return_channel": (1, 1, 0),
    **{
        f"{direction}_{part}ratio": (size, 1, padding)
        for points, part in ((7, "long"), (5, "mid"), (3, "short"))
        for direction, size, padding in (
            ("vertical_long_to_small_conv", (points, 1), (points // 2, 0)),
            ("horizontal_small_to_long_conv", (1, points), (0, points // 2)),
            ("symmetric_conv_long", (points, points), (points // 2, points // 2)),
        )
    },
}
"""Convolutions of PaddleOCR's text detectors: size, step and padding of each."""
_SUPERPOINT = {"model_type": "superpoint", "max_keypoints": 1024}
"""No model knows here how many keypoints an image has."""
_OCR_NECK = {"intraclass_block_config": _INTRACLASS, "scale_factor_list": [1, 2, 4, 8], "kernel_list": [3, 2, 2]}
_DIGITS = str.maketrans("0123456789", "ABCDEFGHIJ")
_IMAGE_CODES = {f"IMGIMG{str(code).translate(_DIGITS)}Z": 4 + code for code in range(8192)}
"""Chameleon's tokens of images: their names spell a number in letters."""

SETTINGS: dict[str, dict[str, Any]] = {
    "aria": {"vision_config": {**_SIGLIP_SIZES, "model_type": "idefics3_vision", "image_size": 980}},
    "autoformer": _FORECAST,
    "aya_vision": {
        "vision_config": {**_SIGLIP, "image_size": 364},
        "text_config": {"model_type": "cohere2", "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32,
                        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 256000, "sliding_window": 4096},
    },
    "bamba": {"attn_layer_indices": [9, 18, 27]},
    "blip-2": {"image_token_index": 50265},
    "chameleon": {"vocabulary_map": {"<image>": 8711, **_IMAGE_CODES}},
    "cohere_compass": {"text_config": {
        "rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [24, 20, 20]}},
    }},
    "dbrx": {
        "d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768, "vocab_size": 100352,
        "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000},
        "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
    },
    "deepseek_ocr2": {"text_config": {
        "hidden_size": 1280, "intermediate_size": 6848, "moe_intermediate_size": 896, "num_hidden_layers": 12, "num_attention_heads": 10,
        "num_key_value_heads": 10, "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6, "vocab_size": 129280,
        "mlp_layer_types": ["dense", *["sparse"] * 11],
    }, "vision_config": {"encoder_config": {
        "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
    }}},
    "deepseek_v2": {"num_experts_per_tok": 6, "n_group": 1, "topk_group": 1},
    "deepseek_vl_hybrid": {"vision_config": {
        "model_type": "siglip_vision_model", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24,
        "num_attention_heads": 16, "patch_size": 16, "image_size": 384,
    }},
    "diffusion_gemma": {"text_config": {
        "hidden_size": 2816, "intermediate_size": 2112, "num_attention_heads": 16, "num_key_value_heads": 8, "num_experts": 128,
        "top_k_experts": 8, "moe_intermediate_size": 704,
    }},
    "dots1": {"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6, "first_k_dense_replace": 1, "n_group": 1,
              "topk_group": 1, "routed_scaling_factor": 2.5, "norm_topk_prob": True},
    "edgetam": {"vision_config": {"backbone_config": {
        "model_type": "timm_wrapper", "architecture": "repvit_m1", "num_classes": 1000,
        "model_args": {"in_chans": 3, "features_only": True, "out_indices": [0, 1, 2, 3]},
    }}},
    "embedding_gemma2": {"vision_config": {}, "audio_config": {}},
    "emu3": {"vocabulary_map": {"<image>": 151851, "<|extra_200|>": 151846,
                                **{f"<|visual token {code:06}|>": 151854 + code for code in range(32768)}}},
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 32},
    "gemma3": {"vision_config": {"image_size": 896}},
    "gemma4": {"vision_config": {}, "audio_config": {}},
    "gemma4_assistant": {"text_config": {"hidden_size_per_layer_input": 0, "vocab_size_per_layer_input": 0}},
    "gemma4_unified": {"vision_config": {}, "audio_config": {}},
    "glm46v": {"text_config": {"head_dim": 128, "rope_parameters": _GLM_ROPE}},
    "glm4v": {"text_config": {"rope_parameters": _GLM_ROPE}},
    "glm4v_moe": {"text_config": {"head_dim": 128, "rope_parameters": _GLM_ROPE}},
    "glm_image": {"text_config": {"rope_parameters": _GLM_ROPE}},
    "granite4_vision": {
        "downsample_rate": "4/8", "deepstack_layer_map": [[-19, 9], [-13, 6], [-7, 3], [-1, 0]],
        "vision_config": {**_SIGLIP, "patch_size": 16, "image_size": 384},
        "vision_feature_select_strategy": "full", "image_grid_pinpoints": [[384, 768], [768, 384], [768, 768]],
    },
    "granite_speech": {"projector_config": _SPEECH_PROJECTOR},
    "granite_speech_plus": {"projector_config": _SPEECH_PROJECTOR},
    "granitemoehybrid": {
        "hidden_size": 1536, "intermediate_size": 512, "shared_intermediate_size": 1024, "num_hidden_layers": 40, "num_attention_heads": 12,
        "num_key_value_heads": 4, "num_local_experts": 64, "num_experts_per_tok": 6, "mamba_n_heads": 48, "mamba_d_head": 64,
        "mamba_d_state": 128, "vocab_size": 100352,
        "layer_types": ["full_attention" if layer in (5, 15, 25, 35) else "linear_attention" for layer in range(40)],
    },
    "hunyuan_v1_dense": {"head_dim": 128},
    "hunyuan_v1_moe": {"head_dim": 128},
    "hunyuan_vl": {
        "text_config": {
            "hidden_size": 1024, "intermediate_size": 3584, "num_hidden_layers": 24, "num_attention_heads": 16, "num_key_value_heads": 8,
            "head_dim": 128, "vocab_size": 120818, "max_position_embeddings": 32768,
            "rope_parameters": {"rope_type": "dynamic", "rope_theta": 10000.0, "alpha": 1000.0, "factor": 1.0,
                                "mrope_section": [16, 16, 16, 16]},
        },
        "vision_config": {"out_hidden_size": 1024, "text_hidden_size": 1024},
    },
    "idefics2": {"vision_config": {**_SIGLIP_SIZES, "image_size": 980}},
    "idefics3": {"vision_config": {**_SIGLIP_SIZES, "image_size": 364}},
    "informer": _FORECAST,
    "instructblip": {"image_token_index": 32000},
    "instructblipvideo": {"video_token_index": 32000},
    "lfm2_moe": {
        "num_hidden_layers": 24,
        "layer_types": ["full_attention" if layer in (2, 6, 10, 14, 18, 21) else "conv" for layer in range(24)],
    },
    "lightglue": {"keypoint_detector_config": _SUPERPOINT},
    "llama4": {"vision_config": {"hidden_size": 1408, "num_hidden_layers": 34, "num_attention_heads": 16, "intermediate_size": 5632,
                                 "vision_output_dim": 4096, "projector_input_dim": 4096, "projector_output_dim": 4096}},
    "lw_detr": {"projector_scale_factors": [1.0]},
    "ministral": {"head_dim": 128},
    "modernvbert": {"vision_config": {"image_size": 512}},
    "moonshine_streaming": {"num_key_value_heads": 8},
    "nemotron": {"head_dim": 128, "num_key_value_heads": 8},
    "ovis2": {"text_config": {
        "model_type": "qwen2", "hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12,
        "num_key_value_heads": 2, "vocab_size": 151643,
    }},
    "perception_lm": {"vision_config": {
        "model_type": "timm_wrapper", "architecture": "vit_pe_core_large_patch14_336",
        "model_args": {"embed_dim": 1024, "depth": 23, "img_size": [448, 448], "global_pool": "", "use_post_transformer_norm": False,
                       "init_values": 0.1, "ref_feat_shape": [32, 32]},
    }, "projector_pooling_ratio": 2},
    "pp_doclayout_v2": {"class_thresholds": [0.5] * 25, "class_order": list(range(25))},
    "pp_ocrv5_server_det": _OCR_NECK,
    "reformer": {"is_decoder": True},
    "shieldgemma2": {"vision_config": {"image_size": 896}},
    "smolvlm": {"vision_config": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "patch_size": 16,
        "image_size": 512,
    }},
    "step3p7": {"text_config": {"sliding_window": 512}},
    "superglue": {"keypoint_detector_config": _SUPERPOINT},
    "superpoint": {"max_keypoints": 1024},
    "t5gemma2": {"encoder": {"vision_config": {"image_size": 896}}},
    "time_series_transformer": _FORECAST,
    "timm_backbone": {"backbone": "resnet50", "out_indices": [1, 2, 3, 4]},
    "ultravbert": {"vision_config": {"image_size": 512}},
    "uvdoc": {"backbone_config": {"model_type": "uvdoc_backbone", "out_features": [f"stage{stage}" for stage in range(1, 7)]}},
    "vitmatte": {"hidden_size": 384, "fusion_hidden_sizes": [256, 128, 64, 32], "backbone_config": {
        "model_type": "vitdet", "num_channels": 4, "image_size": 512, "pretrain_image_size": 224, "hidden_size": 384,
        "num_attention_heads": 6, "use_absolute_position_embeddings": True, "use_relative_position_embeddings": True, "window_size": 14,
        "window_block_indices": [0, 1, 3, 4, 6, 7, 9, 10], "residual_block_indices": [2, 5, 8, 11], "out_features": ["stage12"],
    }},
    "wav2vec2-bert": {"vocab_size": 32},
    "wav2vec2-conformer": {"vocab_size": 32},
    "xmod": {"default_language": "en_XX"},
}
