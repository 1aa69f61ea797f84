"""Which task stands for a call: hand-made calls, without transformers."""

import pytest

from fastkernels_env.coverage.attribution import FREE, NEW_ROWS, PICKED, TABLE, WEIGHT, place
from fastkernels_env.coverage.observations import Call


def call(op, *scopes, **facts):
    return Call(op=op, scopes=scopes, serials=tuple(range(len(scopes))), facts=facts)


@pytest.mark.parametrize(("made", "step", "task"), [
    (call("mm", "LlamaMLP", "Linear", rows=64), "decode", "linear_decode"),
    (call("mm", "LlamaMLP", "Linear", rows=65), "prefill", "linear_prefill"),
    (call("addmm", "BertAttention", "Linear", rows=4096), "batch", "linear_prefill"),
    (call("attention", "LlamaAttention", queries=1, keys=640, causal=1), "decode", "gqa_decode"),
    (call("attention", "LlamaAttention", queries=1, keys=640, causal=1, window=128), "decode", "sink_attention"),
    (call("attention", "LlamaAttention", queries=512, keys=512, causal=1), "prefill", "gqa_prefill"),
    (call("attention", "ViTAttention", queries=197, keys=197, causal=0), "batch", "vit_varlen_attention"),
    (call("attention", "DeepseekV3Attention", queries=1, keys=640, causal=1, latent=576), "decode", "mla_decode"),
    (call("attention", "T5Attention", queries=512, keys=512, causal=0, bias=1), "encode", "bias_attention"),
    (call("experts", "MixtralExperts", rows=64), "decode", "fused_experts"),
    (call("experts", "GptOssExperts", rows=64), "decode", "mxfp4_moe"),
    (call("mm", "MixtralSparseMoeBlock", "MixtralTopKRouter", rows=64), "decode", "linear_decode"),
    (call("topk", "MixtralSparseMoeBlock", "MixtralTopKRouter"), "decode", "topk_softmax"),
    (call("pow", "LlamaDecoderLayer", "LlamaRMSNorm"), "decode", "rms_norm"),
    (call("pow", "DoryDecoderLayer", "DoryL2Norm", "_norm()"), "decode", "rms_norm"),
    (call("native_layer_norm", "LayerNorm"), "batch", "layer_norm"),
    (call("mul", "LlamaAttention", "apply_rotary_pos_emb()"), "decode", "rope"),
    (call("mul", "Qwen2VLAttention", "apply_multimodal_rotary_pos_emb()"), "decode", "mrope"),
    (call("convolution", "Conv2d", dims=2, groups=1, channels=64, points=9), "batch", "conv2d_nhwc"),
    (call("convolution", "Conv2d", dims=2, groups=64, channels=64, points=9), "batch", "dwconv_bn_act"),
    (call("convolution", "ViTPatchEmbeddings", "Conv2d", dims=2, groups=1, channels=3, patches=1, points=256), "batch", "conv3d_patchify"),
    (call("bmm", "Qwen3NextGatedDeltaNet", "torch_chunk_gated_delta_rule()"), "prefill", "gdn_chunk"),
    (call("mul", "MambaMixer", "slow_forward()"), "decode", "ssm_update"),
    (call("mul", "MambaMixer", "slow_forward()"), "prefill", "selective_scan"),
    (call("mul", "Mamba2Mixer", "torch_forward()"), "prefill", "ssd_chunk_scan"),
    (call("bmm", "OldSelfAttention"), "batch", "vit_varlen_attention"),
    (call("max_pool2d_with_indices"), "batch", "pool"),
    (call("nobody_knows"), "batch", "other"),
])
def test_a_call_belongs_to_its_task(made, step, task):
    assert place(made, step).task == task


def test_all_of_a_norm_is_one_kernel_and_products_are_kernels_by_themselves():
    assert place(call("pow", "LlamaDecoderLayer", "LlamaRMSNorm"), "decode").scope == 1
    assert place(call("mm", "LlamaMLP", "Linear", rows=1), "decode").scope is None


def test_what_production_does_in_place_or_not_at_all_is_charged_so():
    assert place(call("cat", "LlamaAttention", "update()", "cache()"), "decode").charge == NEW_ROWS
    assert place(call("le", "LlamaModel", "sdpa_mask()", "masks()"), "prefill").charge == FREE
    assert place(call("mul", "DeepseekV3Attention", "expand_kv()"), "decode").charge == FREE
    assert place(call("mm", "DeepseekV3Attention", "Linear", rows=41024, latent=1), "decode").charge == WEIGHT
    assert place(call("embedding", "Embedding"), "decode").charge == PICKED


def test_the_last_rule_takes_whatever_is_left():
    assert TABLE[-1].task == "other"
    assert not any(rule.ops == ".*" and not rule.scope for rule in TABLE[:-1])
