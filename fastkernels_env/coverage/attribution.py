"""Which task stands for a call of a device operator. One table, read from the top: the first rule that fits decides.

A rule names a task whether or not it exists yet: what counts as covered is decided later, by the tasks that are registered. Names
that the catalogue of planned tasks does not have are families of operators for which somebody has yet to write a task.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from .observations import Call

DECODE_ROWS = 64
"""Up to so many rows a product is a decode step's."""

FREE, TRAFFIC, NEW_ROWS, PICKED, WEIGHT = "free", "traffic", "new_rows", "picked", "weight"
"""How a call is charged: not at all; for memory and arithmetic; for what it adds to a cache, as writing in place costs; for the rows
that it picks out of a table; for reading its weight alone."""


class Place(msgspec.Struct, frozen=True):
    """Where a call belongs."""

    task: str
    """Task, or family of operators without one; empty for what no kernel is needed for."""
    scope: int | None = None
    """Index of the scope whose run is one kernel in production; None if the call is a kernel by itself."""
    charge: str = TRAFFIC


class Rule(msgspec.Struct, frozen=True):
    """A line of the table."""

    task: str | Callable[[Call, str], str]
    """A name, or what gives it for a call and a step."""
    scope: str = ""
    """Pattern of a module's class or a function's name, anywhere around the call; the outermost that fits is meant."""
    ops: str = ""
    """Pattern of the operator."""
    when: Callable[[Call, str], bool] | None = None
    whole: bool = True
    """Whether all that this rule takes from one run of the scope is one kernel."""
    charge: str = TRAFFIC


def _linear(call: Call, step: str) -> str:
    rows = call.facts.get("rows", 0)
    return "linear_decode" if rows <= DECODE_ROWS else "linear_prefill"


def _attention(call: Call, step: str) -> str:
    f = call.facts
    if f.get("latent"):
        return "mla_decode" if f["queries"] == 1 else "mla_prefill"
    if f.get("bias"):
        return "swin_window_attention" if _within(call, "Swin|Donut|Clap|Maskformer") else "bias_attention"
    if step == "decode" and f.get("queries", 1) == 1:
        return "sink_attention" if f.get("sinks") or f.get("window") else "gqa_decode"
    if f.get("causal", int(step == "prefill")):
        return "sink_attention" if f.get("sinks") or f.get("window") else "gqa_prefill"
    return "vit_varlen_attention"


def _eager_attention(call: Call, step: str) -> str:
    if call.facts.get("latent"):
        return "mla_decode" if step == "decode" else "mla_prefill"
    if _within(call, "Swin|Donut|Clap"):
        return "swin_window_attention"
    if _within(call, "T5|Mpt|Bloom|Beit|Deberta|Alibi|Pop2Piano|Udop|Longformer|BigBird|XLNet|Relative|Hiera|MPNet"):
        return "bias_attention"
    return {"decode": "gqa_decode", "prefill": "gqa_prefill"}.get(step, "vit_varlen_attention")


def _scan(call: Call, step: str) -> str:
    if step == "decode":
        return "ssm_update"
    return "selective_scan" if _within(call, "^(Mamba|FalconMamba|JambaMamba|ZambaMamba)Mixer$") else "ssd_chunk_scan"


def _by_phase(decode: str, other: str) -> Callable[[Call, str], str]:
    return lambda call, step: decode if step == "decode" else other


def _convolution(call: Call, step: str) -> str:
    f = call.facts
    if f.get("transposed"):
        return "conv_transpose"
    if f.get("patches") and f.get("points", 1) > 1:
        return "conv3d_patchify"
    if f.get("dims") == 2:
        return "dwconv_bn_act" if f.get("groups", 1) == f.get("channels") != 1 else "conv2d_nhwc"
    return f"conv{f.get('dims')}d"


def _router(call: Call, step: str) -> str:
    return "grouped_topk" if _within(call, "Deepseek|Glm4Moe|GlmMoe|Dots|Kimi|Longcat|Bailing|Ernie") else "topk_softmax"


def _within(call: Call, pattern: str) -> bool:
    return any(re.search(pattern, scope) for scope in call.scopes)


PRODUCTS = "mm|addmm|bmm|baddbmm|mv|addmv|_grouped_mm"
ACTIVATIONS = (
    "silu|gelu|relu|relu6|leaky_relu|elu|hardswish|hardsigmoid|hardtanh|sigmoid|tanh|mish|softplus|log_sigmoid_forward|celu|prelu|"
    "square|glu"
)
POINTWISE = (
    f"{ACTIVATIONS}|add|sub|rsub|mul|div|neg|pow|exp|log|sqrt|rsqrt|reciprocal|abs|clamp|clamp_min|clamp_max|where|masked_fill|fill|copy|"
    "_to_copy|clone|cos|sin|eq|ne|lt|gt|le|ge|logical_and|logical_or|logical_not|bitwise_and|bitwise_or|bitwise_not|maximum|minimum|tanh|"
    "erf|floor|round|ceil|sign|isnan|isinf|remainder|floor_divide|addcmul|lerp|zero|expm1|log1p|exp2|atan2|triu|tril|sigmoid|mean|sum|"
    "native_dropout|dropout|bernoulli|trunc|nan_to_num|special_expit|polar|complex|repeat|roll|constant_pad_nd|"
    "logsumexp|var|std|linalg_vector_norm"
)

TABLE: tuple[Rule, ...] = (
    # State that production keeps in place, and masks that its attention kernels work out themselves.
    Rule("", scope=r"^update_(conv|recurrent|ssm).*state\(\)$", charge=FREE),
    Rule("kv_scatter", scope=r"^cache\(\)$", whole=False, charge=NEW_ROWS),
    Rule("", scope=r"^masks\(\)$", charge=FREE),
    # Mixtures of experts.
    Rule("mxfp4_moe", scope="^GptOss.*(Experts|MLP)$", ops="experts"),
    Rule("fused_experts", ops="experts"),
    Rule("fused_experts", scope="Experts$"),
    Rule(_linear, ops="mm|addmm", scope="Router|Gate$|TopK", whole=False),
    Rule(_router, scope=r"Router|MoEGate|TopK|TopkRouter|route_tokens_to_experts\(\)"),
    # Norms.
    Rule("gated_rms_norm", scope="RMSNormGated|GatedRMSNorm|RmsNormGated"),
    Rule("rms_norm", scope="RMSNorm|RmsNorm|^(T5|MT5|UMT5|LongT5|Pop2Piano|Udop|Pix2Struct|SwitchTransformers)LayerNorm"),
    Rule("rms_norm", scope="L2Norm$"),  # the same with another weight and epsilon
    Rule("rms_norm", ops="_fused_rms_norm"),
    Rule("layer_norm", ops="native_layer_norm"),
    Rule("layer_norm", scope="LayerNorm"),
    Rule("group_norm_silu", ops="native_group_norm"),
    Rule("batch_norm", ops="native_batch_norm|_native_batch_norm_legit.*|cudnn_batch_norm|_batch_norm.*"),
    # Positions.
    Rule("mrope", scope=r"multimodal_rotary.*\(\)|apply_interleaved_mrope\(\)"),
    Rule("rope", scope=r"(apply|rotate|rotary).*(rot|rope|half|every_two|interleav).*\(\)"),
    Rule("rope", scope="Rotary|RoPE|Rope", charge=FREE),  # cosines and sines come from a table
    # Linear attention and state spaces.
    Rule(_by_phase("conv1d_update", "conv1d_varlen"), scope=r"causal_conv.*\(\)|ShortConvolution|ShortConv$",
         ops=f"convolution|{POINTWISE}|cat"),
    Rule(_by_phase("conv1d_update", "conv1d_varlen"), scope="Mixer|DeltaNet|Mamba|DeltaAttention|Conv1d$",
         ops="convolution", whole=False, when=lambda call, step: call.facts.get("dims") == 1 and call.facts.get("groups", 1) > 1),
    Rule("kda_chunk", scope=r"chunk_kda.*\(\)|chunk_kimi.*\(\)"),
    Rule("gdn_chunk", scope=r"chunk_gated_delta_rule\(\)"),
    Rule("gdn_decode", scope=r"recurrent_gated_delta_rule\(\)"),
    Rule(_by_phase("gla_recurrent", "chunk_gla"), scope="LightningAttention|Retention|GatedLinearAttention", ops=r"(?!mm$|addmm$).*"),
    Rule("rwkv_scan", scope=r"rwkv_linear_attention.*\(\)"),
    Rule("rg_lru", scope="RgLru|Rglru"),
    Rule("mlstm", scope=r"mlstm.*\(\)"),
    Rule("selective_scan", scope=r"^mamba_selective_scan\(\)$"),
    Rule("ssd_chunk_scan", scope=r"^mamba2_chunk_scan\(\)$"),
    Rule("ssm_update", scope=r"^mamba2?_selective_state_update\(\)$"),
    Rule(_scan, scope=r"slow_forward\(\)|torch_forward\(\)|segment_sum\(\)", when=lambda call, step: call.op not in ("mm", "addmm")),
    # Attention.
    Rule("ms_deform_attn", scope=r"Deformable|multi_scale_deformable.*\(\)", when=lambda call, step: call.op not in ("mm", "addmm")),
    Rule("mla_decode", scope=r"^expand_kv\(\)$", charge=FREE),  # production never expands the latents that it caches
    Rule("mla_decode", ops="mm|addmm", charge=WEIGHT,
         when=lambda call, step: step == "decode" and bool(call.facts.get("latent")) and call.facts.get("rows", 0) > DECODE_ROWS),
    Rule(_attention, ops="attention"),
    Rule("index_logits", scope="Indexer", when=lambda call, step: call.op not in ("mm", "addmm")),
    Rule(_eager_attention, scope=r"eager_.*attention_forward\(\)"),
    # Products and convolutions.
    Rule(_linear, ops="mm|addmm|mv|addmv"),
    Rule(_linear, scope="^Linear$|^Conv1D$", ops="bmm|baddbmm|add"),
    Rule(_convolution, ops="convolution|_convolution"),
    Rule(_eager_attention, scope="Attention|Attn", when=lambda call, step: call.op not in ("embedding", "index")),
    # The rest, by operator.
    Rule("embedding", ops="embedding", charge=PICKED),
    Rule("embedding_bag_collection", ops="_embedding_bag.*"),
    Rule("batched_matmul", ops="bmm|baddbmm|_grouped_mm|dot"),
    Rule("pool", ops=".*pool.*"),
    Rule("interpolate", ops="upsample.*|grid_sampler.*|_upsample.*"),
    Rule("softmax", ops="_softmax|_log_softmax|softmax|log_softmax"),
    Rule("sort_topk",
         ops="topk|sort|argmax|argmin|argsort|max|min|amax|amin|cumsum|any|all|searchsorted|histc|scatter.*|cumprod|logcumsumexp|bucketize"),
    Rule("gather",
         ops="index|index_select|gather|index_put|index_add|index_copy|take|_index_put_impl|index_fill|masked_scatter",
         charge=PICKED),
    Rule("concatenate", ops="cat|stack"),
    Rule("fft", ops="_fft.*"),
    Rule("lstm", ops=".*lstm.*|.*gru.*"),
    Rule("elementwise", ops=POINTWISE),
    Rule("other", ops=".*"),
)


def place(call: Call, step: str) -> Place:
    """Which task stands for a call.

    Args:
        call: The call.
        step: Name of the step of the workload that it is part of: ``decode``, ``prefill`` and others.
    """
    for rule in TABLE:
        if rule.ops and not re.fullmatch(rule.ops, call.op):
            continue
        scope = None
        if rule.scope:
            scope = next((i for i, name in enumerate(call.scopes) if re.search(rule.scope, name)), None)
            if scope is None:
                continue
        if rule.when is not None and not rule.when(call, step):
            continue
        task = rule.task if isinstance(rule.task, str) else rule.task(call, step)
        return Place(task, scope if rule.whole else None, rule.charge)
    raise AssertionError("the last rule fits every call")
