"""Kernels out of calls, and what they are charged: hand-made traces, without transformers."""

import pytest

from fastkernels_env.coverage.grouping import kernels_of
from fastkernels_env.coverage.observations import Call, Frame, Traffic
from fastkernels_env.coverage.roofline import H200, seconds

N = 1000


def call(op, reads, writes, *scopes, serial=0, **more):
    serials = tuple(serial + i for i in range(len(scopes)))
    read, written = (tuple(Traffic(storage, N) for storage in storages) for storages in (reads, writes))
    return Call(op=op, scopes=scopes, serials=serials, reads=read, writes=written, **more)


def only(calls, step="decode"):
    [kernel] = kernels_of(calls, step)
    return kernel


def test_what_a_kernel_makes_for_itself_never_reaches_memory():
    norm = [call("pow", [0], [1], "RMSNorm"), call("mean", [1], [2], "RMSNorm"), call("mul", [0, 2, 9], [3], "RMSNorm")]
    kernel = only(norm)
    assert kernel.task == "rms_norm"
    assert kernel.bytes == 3 * N  # input and weight in, result out


def test_two_runs_of_a_norm_are_two_kernels():
    kernels = kernels_of([call("pow", [0], [1], "RMSNorm"), call("pow", [1], [2], "RMSNorm", serial=7)], "decode")
    assert [k.bytes for k in kernels] == [2 * N, 2 * N]


def test_a_residual_joins_the_norm_that_reads_it():
    calls = [
        call("add", [0, 1], [2], "LlamaDecoderLayer"), call("pow", [2], [3], "LlamaRMSNorm", serial=5),
        call("mm", [2], [4], "Linear", serial=9),
    ]
    norm = next(k for k in kernels_of(calls, "decode") if "pow" in k.ops)
    assert norm.task == "fused_add_rms_norm"
    assert norm.bytes == 4 * N  # input and residual in, both out
    assert "add" in norm.ops


def test_a_gated_activation_is_one_kernel_and_a_plain_one_has_another_name():
    gated = [call("silu", [0], [1], "LlamaMLP"), call("mul", [1, 2], [3], "LlamaMLP")]
    assert (only(gated).task, only(gated).bytes) == ("silu_and_mul", 3 * N)
    assert only([call("gelu", [0], [1], "BertIntermediate")], "batch").task == "activation"
    assert only([call("gelu", [0], [1], "GemmaMLP"), call("mul", [1, 2], [3], "GemmaMLP")]).task == "gelu_tanh_and_mul"
    written_out = [call("sigmoid", [0], [1], "CLIPMLP", "QuickGELUActivation"), call("mul", [0, 1], [2], "CLIPMLP", "QuickGELUActivation")]
    assert only(written_out, "batch").task == "activation"  # its product is no gate


@pytest.mark.parametrize("scopes", [("AlbertLayer", "NewGELUActivation"), ("EsmIntermediate", "gelu()"), ("Layer", "QuickGELUActivation")])
def test_an_activation_that_is_written_out_is_one_kernel(scopes):
    parts = [call("mul", [0], [1], *scopes), call("erf", [1], [2], *scopes), call("mul", [0, 2], [3], *scopes)]
    kernel = only(parts, "batch")
    assert (kernel.task, kernel.bytes) == ("activation", 2 * N)
    assert [k.task for k in kernels_of([call("mul", [0], [1], scopes[0], "Snake")], "batch")] == ["elementwise"]


def test_a_convolution_takes_its_epilogue():
    facts = {"dims": 2, "groups": 1, "channels": 64, "points": 9}
    calls = [
        call("convolution", [0, 1], [2], "Conv2d", facts=facts), call("native_batch_norm", [2], [6], "BatchNorm2d"),
        call("add", [6, 3], [4], "Layer"), call("relu", [4], [5], "Layer"),
    ]
    kernel = only(calls, "batch")
    assert kernel.task == "conv2d_nhwc"
    assert kernel.bytes == 4 * N  # input, weight and shortcut in, result out


def test_a_cache_is_charged_for_its_new_rows():
    grown = Call(op="cat", scopes=("cache()",), serials=(0,), reads=(Traffic(0, 99 * N), Traffic(1, N)), writes=(Traffic(2, 100 * N),))
    kernel = only([grown])
    assert (kernel.task, kernel.bytes) == ("kv_scatter", 2 * N)


def test_a_table_is_charged_for_the_rows_taken():
    kernel = only([Call(op="embedding", reads=(Traffic(0, 10**9), Traffic(1, 8)), writes=(Traffic(2, N),))])
    assert (kernel.task, kernel.bytes) == ("embedding", 2 * N)


def test_what_is_free_is_no_kernel():
    assert kernels_of([call("le", [0], [1], "masks()")], "prefill") == []


def test_layers_alike_count_as_often_as_they_are_run():
    inner = Frame(count=3, entries=[call("mm", [0], [1])])
    frame = Frame(entries=[Frame(count=32, entries=[inner, call("mm", [1], [2])]), call("mm", [2], [3])])
    assert [c.weight for c in frame.calls()] == [96, 32, 1]


@pytest.mark.parametrize(("traffic", "flops", "expected"), [
    (4.3e12, 0, 1.0), (0, 790e12, 1.0), (4.3e12, 2 * 790e12, 2.0), (0, 0, 0.0),
])
def test_a_roofline_is_the_longer_of_two_times(traffic, flops, expected):
    assert seconds(traffic, flops, "bfloat16", H200) == pytest.approx(expected)


def test_a_type_without_a_rate_takes_that_of_float32():
    assert seconds(0, 67e12, "float64") == pytest.approx(1.0)
