"""The recorder on plain torch modules: what ran is what is seen, whatever the tensors are made of."""

import gc

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from fastkernels_env.capture.matching import match
from fastkernels_env.capture.recorder import Recorder
from fastkernels_env.capture.situations import Batch, Context

F = nn.functional


class Attention(nn.Module):
    def __init__(self, width, heads, kv_heads):
        super().__init__()
        self.heads, self.kv_heads = heads, kv_heads
        head = width // heads
        self.q_proj, self.o_proj = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k_proj, self.v_proj = (nn.Linear(width, kv_heads * head, bias=False) for _ in range(2))

    def forward(self, x):
        q, k, v = (
            projected.unflatten(-1, (heads, -1)).transpose(1, 2)
            for projected, heads in ((self.q_proj(x), self.heads), (self.k_proj(x), self.kv_heads), (self.v_proj(x), self.kv_heads))
        )
        return self.o_proj(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(-2))


class Mlp(nn.Module):
    def __init__(self, width, inner):
        super().__init__()
        self.gate_proj, self.up_proj = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_layernorm, self.post_attention_layernorm = nn.RMSNorm(64), nn.RMSNorm(64)
        self.self_attn, self.mlp = Attention(64, 4, 2), Mlp(64, 96)

    def forward(self, x):
        x = x + self.self_attn(self.input_layernorm(x))
        return x + self.mlp(self.post_attention_layernorm(x))


class Model(nn.Module):
    def __init__(self, layers=3):
        super().__init__()
        self.layers = nn.ModuleList(Layer() for _ in range(layers))
        self.norm = nn.RMSNorm(64)

    def forward(self, x):
        for layer in self.layers:
            x = layer(x)
        return self.norm(x)


class SiLUActivation(nn.SiLU):
    pass


class MineMLP(Mlp):
    """As those of `transformers` are called and built."""

    def __init__(self, bias=False):
        super().__init__(64, 96)
        self.act_fn = SiLUActivation()
        if bias:
            self.down_proj = nn.Linear(96, 64)


class MineTopKRouter(nn.Module):
    def __init__(self, top_k=2):
        super().__init__()
        self.top_k, self.norm_topk_prob, self.weight = top_k, False, nn.Parameter(torch.randn(8, 64))

    def forward(self, x):
        return F.softmax(F.linear(x, self.weight), -1).topk(self.top_k)


class MineSigmoidTopKRouter(MineTopKRouter):
    def forward(self, x):
        return F.linear(x, self.weight).sigmoid().topk(self.top_k)


def record(call, batch=None):
    recorder = Recorder()
    with torch.no_grad(), recorder:
        if batch is None:
            call()
        else:
            with recorder.step(batch):
                call()
    return recorder


def seen(recorder):
    """Matches with their counts, by task and part."""
    found = {}
    for observation in recorder.observations:
        for m in match(observation.measured()):
            key = m.task, m.part, tuple(m.sizes.values())
            found[key] = found.get(key, 0) + observation.count
    return found


EXPECTED = {
    ("rms_norm", "", (10, 64)): 1,
    ("fused_add_rms_norm", "", (10, 64)): 6,
    ("linear_decode", "qkv", (10, 128, 64)): 3,
    ("linear_decode", "out", (10, 64, 64)): 3,
    ("linear_decode", "gate-up", (10, 192, 64)): 3,
    ("linear_decode", "down", (10, 64, 96)): 3,
    ("silu_and_mul", "", (10, 96)): 3,
    ("gqa_prefill", "", (2, 5, 4, 2, 16, 16, 1)): 3,
}


def on_real():
    model = Model()
    return record(lambda: model(torch.randn(2, 5, 64)))


def on_meta():
    with torch.device("meta"):
        model, x = Model(), torch.randn(2, 5, 64)
    return record(lambda: model(x))


def on_fake_outside():
    with FakeTensorMode():
        model = Model()
        return record(lambda: model(torch.randn(2, 5, 64)))


def on_fake_inside():
    def call():
        with FakeTensorMode():
            Model()(torch.randn(2, 5, 64))

    return record(call)


@pytest.mark.parametrize("run", [on_real, on_meta, on_fake_outside, on_fake_inside])
def test_a_decoder_is_seen_as_production_runs_it(run):
    assert seen(run()) == EXPECTED


def test_a_decode_step_is_seen_with_its_cache_and_counts_for_the_steps_it_stands_for():
    batch = Batch(kind="decode", tokens=6, sequences=6, steps=40, context=Context(300, 0.5, 20, 900, 340.0))
    model = Model(1)
    found = seen(record(lambda: model(torch.randn(6, 1, 64)), batch))
    assert found["gqa_decode", "", (6, 4, 2, 16, 16, 32)] == 40
    assert found["fused_add_rms_norm", "", (6, 64)] == 80


def test_lengths_of_a_cache_without_a_step_are_those_of_the_keys():
    q, kv = torch.randn(3, 4, 1, 16), torch.randn(3, 2, 37, 16)
    [observation] = record(lambda: F.scaled_dot_product_attention(q, kv, kv, enable_gqa=True)).observations
    [found] = match(observation.measured())
    assert found.params == {"median": 37, "sigma": 0.0, "low": 37, "high": 37}
    assert found.sizes["kv"] == 2


def test_layers_with_different_inputs_are_not_fused():
    class Cross(Attention):
        def forward(self, x, memory):
            return self.q_proj(x), self.k_proj(memory), self.v_proj(memory)

    model = Cross(64, 4, 2)
    found = seen(record(lambda: model(torch.randn(1, 5, 64), torch.randn(1, 9, 64))))
    assert found == {("linear_decode", "qkv", (5, 64, 64)): 1, ("linear_decode", "qkv", (9, 64, 64)): 1}


def test_norms_that_are_other_ops_are_left_out():
    class GemmaRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(64))

        def forward(self, x):
            return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1.0 + self.weight)

    class MyRMSNormGated(nn.RMSNorm):
        def forward(self, x):
            return super().forward(x) * F.silu(x)

    shifted, gated = GemmaRMSNorm(), MyRMSNormGated(64)
    assert seen(record(lambda: (shifted(torch.randn(3, 64)), gated(torch.randn(3, 64))))) == {}


def test_functions_outside_of_modules_are_seen():
    x, w = torch.randn(3, 64), torch.randn(32, 64)
    found = seen(record(lambda: (F.rms_norm(x, (64,)), F.linear(x, w), F.silu(x) * x)))
    assert found == {("rms_norm", "", (3, 64)): 1, ("linear_decode", "", (3, 32, 64)): 1, ("silu_and_mul", "", (3, 64)): 1}


@pytest.fixture(scope="module")
def engine():
    """Custom ops with the names and arguments of a serving engine's."""
    library = torch.library.Library("_C", "FRAGMENT")
    library.define("rms_norm(Tensor! out, Tensor input, Tensor weight, float epsilon) -> ()")
    library.define("attend(Tensor q, Tensor block_tables, Tensor seq_lens, Tensor topk_ids, int num_experts) -> Tensor")
    library.impl("rms_norm", lambda out, x, weight, epsilon: None, "CPU")
    library.impl("attend", lambda q, *_: q.clone(), "CPU")
    yield torch.ops._C
    library._destroy()


def test_custom_ops_and_what_their_tables_hold(engine):
    x = torch.randn(4, 64)
    tables = torch.tensor([[3, 4, -1], [9, 1, 2]], dtype=torch.int32)

    def call():
        engine.rms_norm(torch.empty_like(x), x, x[0], 1e-6)
        engine.attend(x, tables, torch.tensor([20, 40]), torch.tensor([[0, 1], [0, 2]]), 4)

    recorder = record(call)
    assert seen(recorder) == {("rms_norm", "", (4, 64)): 1}
    attend = recorder.observations[-1]
    assert attend.op.op == "_C::attend"
    assert attend.values["block_tables"] == {"entries": 5.0, "distinct": 5.0, "adjacent": 0.5}
    assert attend.lengths == [20, 40]
    assert attend.routing == [[2, 1, 1, 0]]
    assert recorder.book.operators["_C::attend"] == 1


def test_a_module_that_calls_the_custom_op_itself_is_one_call(engine):
    class EngineRMSNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(64))

        def forward(self, x, residual=None):
            engine.rms_norm(torch.empty_like(x), x, self.weight, 1e-6)
            return x

    model = EngineRMSNorm()
    found = seen(record(lambda: (model(torch.randn(3, 64)), model(torch.randn(3, 64), torch.randn(3, 64)))))
    assert found == {("rms_norm", "", (3, 64)): 1, ("fused_add_rms_norm", "", (3, 64)): 1}


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_layer_norms_and_other_gates(device):
    x = torch.randn(3, 64, device=device)
    layer, bare = nn.LayerNorm(64, device=device), nn.LayerNorm(64, elementwise_affine=False, device=device)
    found = seen(record(lambda: (layer(x), bare(x), F.gelu(x, approximate="tanh") * x, F.gelu(x) * x, F.silu(x) * 2)))
    assert found == {("layer_norm", "", (3, 64)): 1, ("gelu_tanh_and_mul", "", (3, 64)): 1}


def test_layers_that_have_numbers_for_names_have_no_part():
    model = nn.Sequential(nn.RMSNorm(64), nn.Linear(64, 32))
    found = seen(record(lambda: model(torch.randn(3, 64))))
    assert found == {("rms_norm", "", (3, 64)): 1, ("linear_decode", "", (3, 32, 64)): 1}


def test_nothing_is_left_behind():
    recorder = on_real()
    before = [(o.op, o.count) for o in recorder.observations]
    Model()(torch.randn(2, 5, 64))
    assert [(o.op, o.count) for o in recorder.observations] == before
    gc.collect()
    assert not nn.modules.module._global_forward_hooks
    assert not nn.modules.module._global_forward_pre_hooks


def test_an_exception_goes_through_and_the_recorder_goes_on():
    class Failing(nn.Module):
        def forward(self, x):
            raise KeyError("mine")

    recorder = Recorder()
    with pytest.raises(KeyError, match="mine"), recorder:
        nn.Sequential(nn.RMSNorm(64), Failing())(torch.randn(3, 64))
    with recorder:
        nn.RMSNorm(64)(torch.randn(3, 64))
    assert seen(recorder) == {("rms_norm", "", (3, 64)): 2}
    with recorder:
        with pytest.raises(KeyError):
            Failing()(torch.randn(3, 64))
        nn.RMSNorm(64)(torch.randn(3, 64))
    assert seen(recorder) == {("rms_norm", "", (3, 64)): 3}


def test_results_are_what_they_are_without_it():
    torch.manual_seed(0)
    model, x = Model(), torch.randn(2, 5, 64)
    plain = model(x)
    with Recorder():
        assert torch.equal(model(x), plain)


def tasks_of(module, *inputs):
    return {found.task for observation in record(lambda: module(*inputs)).observations for found in match(observation.measured())}


def test_whole_mlps_and_routers_are_tasks_too():
    x = torch.randn(5, 64)
    assert tasks_of(MineMLP(), x) == {"linear_decode", "silu_and_mul", "llama_mlp"}
    assert tasks_of(MineMLP(bias=True), x) == {"linear_decode", "silu_and_mul"}, "llama_mlp has no biases"
    assert tasks_of(MineTopKRouter(), x) == {"linear_decode", "topk_softmax"}
    assert tasks_of(MineSigmoidTopKRouter(), x) == {"linear_decode"}
    [chosen] = [o.op for o in record(lambda: MineTopKRouter()(x)).observations if o.op.op == "router"]
    assert chosen.numbers == {"top_k": 2, "renormalize": 0}


def test_what_a_mask_lets_through_is_not_known():
    q, k = torch.randn(2, 4, 5, 16), torch.randn(2, 2, 5, 16)

    def attend(*rest, **named):
        return lambda x: F.scaled_dot_product_attention(x, k, k, *rest, enable_gqa=True, **named)

    assert tasks_of(attend(), q) == tasks_of(attend(None, 0.0, True), q) == {"gqa_prefill"}
    assert tasks_of(attend(torch.zeros(5, 5)), q) == set()
    assert tasks_of(attend(), q[:, :, :3]) == set(), "the keys are of other tokens too"
    [seen] = record(lambda: attend(is_causal=True)(q)).observations
    assert match(seen.measured())[0].params["causal"] == 1
