"""What counts as the submission in a reply."""

from __future__ import annotations

import contextlib
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fastkernels_env.registry import load_task
from fastkernels_env.submission import MAX_CHARS, RejectedError, extract
from fastkernels_env.types import Language

TASK = load_task("rms_norm")
SEEDS = TASK.seeds()
CPP, CUDA, TRITON = SEEDS["cpu.cpp"], SEEDS["cuda.cu"], SEEDS["triton.py"]
STUB = "def rms_norm(out, input, weight, epsilon):\n    pass\n"
OTHER = "def rms_norm(out, input, weight, epsilon):\n    return\n"
CPP_PARAMETERS = "tvm::ffi::TensorView out, tvm::ffi::TensorView input, tvm::ffi::TensorView weight, double epsilon"


def fenced(code, tag="python", mark="```"):
    return f"{mark}{tag}\n{code}{mark}\n"


def code_of(text, device="cpu"):
    return extract(text, TASK, device).code


def reason_of(text, device="cpu"):
    with pytest.raises(RejectedError) as caught:
        extract(text, TASK, device)
    assert str(caught.value) == caught.value.reason
    return caught.value.reason


@pytest.mark.parametrize("tag", ["python", "Python", "py", "python3", "triton", "", "text", "python title=kernel.py", "{.python}"])
def test_a_python_seed_comes_out_whole(tag):
    submission = extract(f"Here:\n\n{fenced(TRITON, tag)}\nDone.", TASK, "cuda")
    assert submission.code == TRITON
    assert submission.language is Language.PYTHON
    assert submission.entry == "rms_norm"
    assert submission.arguments == ("out", "input", "weight", "epsilon")
    assert submission.kernels == ("_rms_norm",)
    assert not submission.has_plan
    assert not submission.has_prepare


@pytest.mark.parametrize("tag", ["cpp", "C++", "cxx", "cc", "c", "", "text"])
def test_a_cpp_seed_comes_out_whole(tag):
    submission = extract(fenced(CPP, tag), TASK, "cpu")
    assert submission.code == CPP
    assert submission.language is Language.CPP
    assert submission.arguments == ("out", "input", "weight", "epsilon")
    assert submission.kernels == ()


@pytest.mark.parametrize("tag", ["cuda", "cu", "cpp", "c++", "", "text"])
def test_a_cuda_seed_comes_out_whole(tag):
    submission = extract(fenced(CUDA, tag), TASK, "cuda")
    assert submission.code == CUDA
    assert submission.language is Language.CUDA
    assert submission.kernels == ("rms_norm_kernel",)


@pytest.mark.parametrize(("code", "language"), [(CPP, Language.CPP), (CUDA, Language.CUDA), (TRITON, Language.PYTHON)])
def test_without_a_fence_the_whole_text_is_the_code(code, language):
    submission = extract(f"\n\n{code}\n\n", TASK, "cpu")
    assert submission.code == code
    assert submission.language is language


@pytest.mark.parametrize(
    ("code", "language"),
    [
        (f"#include <cublas_v2.h>\nvoid rms_norm({CPP_PARAMETERS}) {{}}\n", Language.CUDA),
        (f"#include <cub/cub.cuh>\nvoid rms_norm({CPP_PARAMETERS}) {{}}\n", Language.CUDA),
        (f"void rms_norm({CPP_PARAMETERS}) {{ k<<<1, 1>>>(); }}\n", Language.CUDA),
        (f"#include <cube.h>\nvoid rms_norm({CPP_PARAMETERS}) {{}}\n", Language.CPP),
        (f"// no __global__ function, no <<<launch>>>\nvoid rms_norm({CPP_PARAMETERS}) {{}}\n", Language.CPP),
    ],
)
def test_cuda_is_told_from_cpp_by_what_the_code_uses(code, language):
    assert extract(fenced(code, "cpp"), TASK, "cpu").language is language


def test_a_tag_of_cuda_is_enough():
    assert extract(fenced(f"void rms_norm({CPP_PARAMETERS}) {{}}\n", "cuda"), TASK, "cuda").language is Language.CUDA


def test_cpp_without_kernels_is_rejected_on_a_gpu():
    assert "found C++ without a kernel" in reason_of(fenced(CPP, "cpp"), "cuda")


def test_of_the_blocks_that_define_the_entry_the_last_counts():
    usage = fenced("import torch\nrms_norm(out, x, w, 1e-5)\n")
    definition_of_another = fenced("def forward(x):\n    return x\n")
    assert code_of(fenced(STUB) + "better:\n" + fenced(OTHER) + "use it:\n" + usage + definition_of_another) == OTHER


def test_a_later_block_of_another_language_counts():
    assert code_of(fenced(TRITON) + fenced(CPP, "cpp")) == CPP


@pytest.mark.parametrize(
    ("opening", "closing"),
    [("````", "````"), ("~~~", "~~~"), ("~~~~~", "~~~~~"), ("```", "`````"), ("   ```", "   ```"), ("\t```", "\t```")],
)
def test_fence_marks(opening, closing):
    assert code_of(f"text\n{opening}python\n{STUB}{closing}\nmore") == STUB


def test_shorter_marks_and_other_marks_do_not_close_a_fence():
    code = f'"""\n```\n~~~~\n"""\n{STUB}'
    assert code_of(f"````python\n{code}````\n") == code


def test_an_indented_block_loses_its_common_indentation():
    block = "".join(f"   {line}\n" for line in fenced(TRITON).splitlines())
    assert code_of(f"1. The kernel:\n\n{block}\n2. Done") == TRITON


def test_code_that_is_less_indented_than_its_fence_keeps_its_shape():
    assert code_of(f"    ```python\n{STUB}    ```\n") == STUB


def test_a_fence_deep_inside_the_code_does_not_close_it():
    code = f'{STUB}\ndef helper():\n    """Example:\n\n    ```\n    rms_norm(...)\n    ```\n    """\n'
    assert code_of(fenced(code)) == code


def test_line_ends_and_byte_order_mark():
    assert code_of("\ufeff" + fenced(TRITON).replace("\n", "\r\n")) == TRITON
    assert code_of(fenced(STUB).replace("\n", "\r")) == STUB


@pytest.mark.parametrize("tag", ["think", "thinking", "reasoning", "THINK"])
def test_reasoning_is_ignored(tag):
    draft = fenced(OTHER)
    assert code_of(f"<{tag}>\ndraft\n{draft}\n</{tag}>\n{fenced(STUB)}") == STUB
    assert code_of(f"Hm. <{tag}>draft\n{draft}</{tag}>{fenced(STUB)}") == STUB
    assert code_of(f"{fenced(STUB)}\n<{tag}>\nmaybe\n{draft}\n</{tag}>\nNo, as it is.") == STUB
    assert "after the reasoning" in reason_of(f"<{tag}>\n{draft}</{tag}>\n")


def test_reasoning_that_the_prompt_opened_is_ignored():
    assert code_of(f"let me see\n```python\nunfinished\n</think>\n{fenced(STUB)}") == STUB


def test_reasoning_without_an_end_hides_the_rest():
    assert "<think> is never closed" in reason_of("<think>\nI would begin with the loads and")
    assert "<think> is never closed" in reason_of(f"<think>\ndraft:\n{fenced(STUB)}")
    assert code_of(f"{fenced(STUB)}<think>\nshould I\n{fenced(OTHER)}") == STUB


def test_mentioning_a_reasoning_tag_is_no_reasoning():
    assert code_of(f"I put my thoughts into <think> tags.\n{fenced(STUB)}") == STUB
    assert code_of(f"`<think>` is my tag.\n{fenced(STUB)}") == STUB
    code = f'"""<think> no </think>"""\n{STUB}'
    assert code_of(fenced(code)) == code


@pytest.mark.parametrize(
    "text", [f"```python\n{STUB}", f"{fenced(STUB)}and\n```python\n{OTHER}", f"````python\n{STUB}```\n", "```"]
)
def test_an_unclosed_fence_is_a_truncated_reply(text):
    assert "cut off" in reason_of(text)


def test_the_reason_names_the_line_of_the_unclosed_fence():
    assert "in line 3 " in reason_of(f"one\ntwo\n```python\n{STUB}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty text"),
        (" \n\t\r\n ", "empty text"),
        ("```\n\n```", "none that defines it"),
        (f"{STUB}\0", "NUL byte"),
        (f"# \ud800\n{STUB}", "lone surrogate"),
        ("x" * (MAX_CHARS + 1), "at most 65,536 characters, got 65,537"),
        ("`" * 5_000_000, "got 5,000,000"),
        ("Sorry, I cannot do that.", "found neither a fence nor that function"),
        (fenced("def forward(x):\n    return x\n"), "1 fenced block and none that defines it"),
    ],
)
def test_unusable_text(text, said):
    assert said in reason_of(text)


def test_the_longest_reply_is_accepted():
    text = fenced(STUB)
    assert code_of("." * (MAX_CHARS - len(text) - 1) + "\n" + text) == STUB


@pytest.mark.parametrize(
    "signature",
    [
        "x, weight, eps",
        "out, input, weight",
        "input, out, weight, epsilon",
        "out, input, weight, epsilon, BLOCK=128",
        "*arguments",
        "out, input, weight, epsilon, **options",
        "out, input, weight, epsilon, plan",
    ],
)
def test_a_wrong_python_signature_is_rejected_with_both(signature):
    reason = reason_of(fenced(f"def rms_norm({signature}):\n    pass\n"))
    assert "expected rms_norm(out, input, weight, epsilon), found rms_norm(" in reason


@pytest.mark.parametrize(
    "definition",
    [
        "def rms_norm(out, input, weight, epsilon=1e-5):\n    pass\n",
        "def rms_norm(out, input, /, weight: 'Tensor', epsilon: float) -> None:\n    pass\n",
        "@torch.no_grad()\ndef rms_norm(\n    out,\n    input,  # (rows\n    weight,\n    epsilon,\n):\n    pass\n",
        "if True:\n    def rms_norm(out, input, weight, epsilon):\n        pass\n",
        "try:\n    import x\nexcept ImportError:\n    def rms_norm(out, input, weight, epsilon):\n        pass\n",
        "def rms_norm(a):\n    pass\n\n\ndef rms_norm(out, input, weight, epsilon):\n    pass\n",
    ],
)
def test_right_python_signatures(definition):
    assert extract(fenced(definition), TASK, "cpu").arguments == ("out", "input", "weight", "epsilon")


@pytest.mark.parametrize(
    "code",
    [
        "class Model:\n    def rms_norm(out, input, weight, epsilon):\n        pass\n",
        "def outer():\n    def rms_norm(out, input, weight, epsilon):\n        pass\n",
        "async def rms_norm(out, input, weight, epsilon):\n    pass\n",
        "from kernels import rms_norm\n",
        "rms_norm = None\n",
    ],
)
def test_what_is_no_module_level_function_is_no_entry(code):
    assert "none that defines it" in reason_of(fenced(code))


def test_python_that_does_not_parse_is_left_to_the_build_stage():
    code = "def rms_norm(out, input, weight, epsilon:\n    pass\n"
    submission = extract(fenced(code), TASK, "cpu")
    assert submission.code == code
    assert submission.language is Language.PYTHON
    assert submission.arguments == ()


def test_cpp_that_does_not_compile_is_left_to_the_build_stage():
    code = f"#include <x.h>\nvoid helper() {{\nvoid rms_norm({CPP_PARAMETERS}) {{ out.; }}\n"
    assert code_of(fenced(code, "cpp")) == code


def test_plan_and_prepare():
    helper = "def {}(out, input, weight, epsilon):\n    return 1\n"
    entry = "def rms_norm(out, input, weight, epsilon, *, {}):\n    pass\n"
    both = extract(fenced(helper.format("plan") + helper.format("prepare") + entry.format("plan, prepared=None")), TASK, "cpu")
    assert both.has_plan
    assert both.has_prepare
    assert both.arguments == ("out", "input", "weight", "epsilon")
    unused = extract(fenced(helper.format("plan") + STUB), TASK, "cpu")
    assert not unused.has_plan
    assert "module-level function prepare is expected" in reason_of(fenced(entry.format("prepared")))
    assert "expected plan(out, input, weight, epsilon), found plan(input)" in reason_of(
        fenced("def plan(input):\n    pass\n" + entry.format("plan"))
    )
    assert "found 'workspace'" in reason_of(fenced(entry.format("workspace")))


@pytest.mark.parametrize(
    "definition",
    [
        f"void rms_norm({CPP_PARAMETERS}) {{}}",
        f'extern "C" void rms_norm({CPP_PARAMETERS}) noexcept {{}}',
        f'extern "C" {{\nvoid rms_norm({CPP_PARAMETERS})\n{{\n}}\n}}',
        f"static inline auto rms_norm({CPP_PARAMETERS}) -> void {{}}",
        f"namespace {{ void rms_norm({CPP_PARAMETERS}) {{}} }}",
        f"void rms_norm({CPP_PARAMETERS});\nvoid rms_norm({CPP_PARAMETERS}) {{}}",
        "[[gnu::noinline]] void rms_norm(const TensorView& out, TensorView const &input, [[maybe_unused]] TensorView weight,\n"
        "    // the (small) epsilon, never zero\n    double /* not float, */ epsilon = 1e-5) {}",
        "void rms_norm(std::pair<int, Map<int, float>> out, int input[4], F<(1 > 0), int> weight, double epsilon = f(1, 2 < 3)) {}",
        "void rms_norm(T out, T input = {1, 2}, T weight = a < b, double epsilon = 0x1'0p3) {}",
        "/* void rms_norm(int a) {} */\n#define rms_norm(x) {\n#undef rms_norm\n"
        'const char* s = "void rms_norm(int b) {}"; const char* r = R"x(void rms_norm(int c) {)" )x";\n'
        f"void rms_norm({CPP_PARAMETERS}) {{}}",
        f"template <typename T>\n__global__ void rms_norm(T* a) {{}}\nvoid rms_norm({CPP_PARAMETERS}) {{ rms_norm<<<1, 1>>>(0); }}",
        f"struct S {{ S() : a('\\'') {{}} char a; }};\nvoid rms_norm({CPP_PARAMETERS}) {{ if (f(1)) {{ g(rms_norm); }} }}",
    ],
)
def test_right_cpp_signatures(definition):
    submission = extract(fenced(definition + "\n", "cpp"), TASK, "cpu")
    assert submission.arguments == ("out", "input", "weight", "epsilon")


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ("TensorView x, TensorView y, double eps", "x, y, eps"),
        ("", ""),
        ("void", ""),
        ("TensorView out, TensorView input, TensorView weight, double", "out, input, weight, double"),
    ],
)
def test_a_wrong_cpp_signature_is_rejected_with_both(parameters, found):
    reason = reason_of(fenced(f"void rms_norm({parameters}) {{}}\n", "cpp"))
    assert f"expected rms_norm(out, input, weight, epsilon), found rms_norm({found});" in reason


@pytest.mark.parametrize(
    "code",
    [
        f"void rms_norm({CPP_PARAMETERS});\n",
        "int main() { rms_norm(a, b, c, d); return rms_norm(a); }\n",
        f"__global__ void __launch_bounds__(256) rms_norm({CPP_PARAMETERS}) {{}}\n",
        f"// void rms_norm({CPP_PARAMETERS}) {{}}\n",
        f"void S::rms_norm({CPP_PARAMETERS}) {{}}\n",
        "void my_rms_norm(int a) {}\n",
    ],
)
def test_what_is_no_cpp_function_of_that_name(code):
    assert "none that defines it" in reason_of(fenced(code, "cpp"))


def test_names_of_cuda_kernels():
    code = (
        "template <int N> __global__ void __launch_bounds__(256, 2) first(int* a) {}\n"
        '__global__ __attribute__((noinline)) void second() {}\nextern "C" __global__ void second(int);\n'
        f"// __global__ void third()\n__device__ void no() {{}}\nvoid rms_norm({CPP_PARAMETERS}) {{}}\n"
    )
    assert extract(fenced(code, "cuda"), TASK, "cuda").kernels == ("first", "second")


def test_names_of_triton_kernels():
    code = (
        "import triton as tr\nfrom triton import jit as compiled, autotune\nimport torch, numba\n"
        "@compiled\ndef a(): pass\n@autotune(configs=[], key=[])\n@tr.jit(debug=True)\ndef b(): pass\n"
        "@torch.jit.script\ndef c(): pass\n@numba.jit\ndef d(): pass\nSOURCE = '__global__ void e(int) {}'\n" + STUB
    )
    assert set(extract(fenced(code), TASK, "cuda").kernels) == {"a", "b", "e"}


PROSE = st.text(st.characters(exclude_characters="`~<\0\r", exclude_categories=["Cs"]), max_size=300)


@settings(deadline=None, max_examples=80)
@given(
    before=PROSE, after=PROSE, seed=st.sampled_from(sorted(SEEDS)), mark=st.sampled_from(["```", "````", "~~~", "~~~~~~"]),
    indent=st.integers(0, 6), ends=st.sampled_from(["\n", "\r\n"]), tagged=st.booleans(),
)
def test_prose_around_a_fenced_seed_changes_nothing(before, after, seed, mark, indent, ends, tagged):
    tag = {"cpu.cpp": "cpp", "cuda.cu": "cuda", "triton.py": "python"}[seed] if tagged else ""
    block = "".join(" " * indent + line + "\n" for line in fenced(SEEDS[seed], tag, mark).splitlines())
    text = f"{before}\n{block}{after}".replace("\n", ends)
    assert code_of(text).splitlines() == SEEDS[seed].splitlines()


MARKS = ["```", "````python\n", "~~~", "\n", "\r\n", "<think>", "</think>", "<reasoning>", "`<think>", " ", "\t"]
WORDS = ["def rms_norm(", "void rms_norm(", "out, ", "input, weight, epsilon", "):\n", ") {", "}", "#include <x>\n", "__global__ "]
SIGNS = ["<<<", '"', "'", 'R"(', "/*", "*/", "//", "\\", "(", ")", "<", ">", "[", "]", "=", ",", "*", "@", "plan", "lambda"]
ODDITIES = ["é", "\u2028", "\ufeff", "\0", "\ud800"]
FRAGMENTS = st.sampled_from(MARKS + WORDS + SIGNS + ODDITIES)


@settings(deadline=None, max_examples=300)
@given(st.one_of(st.lists(FRAGMENTS, max_size=40).map("".join), st.text(max_size=400)), st.sampled_from(["cpu", "cuda"]))
def test_any_text_is_either_a_submission_or_rejected(text, device):
    with contextlib.suppress(RejectedError):
        submission = extract(text, TASK, device)
        assert submission.entry in submission.code
        submission.code.encode()


GAPS = st.sampled_from([" ", "\n", "\t", " /* a, (b */ ", " // c = )\n", "  \n  "])


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_layout_and_comments_do_not_change_a_cpp_signature(data):
    parameters = "TensorView out , const TensorView & input , [[ unused ]] T < int , 3 > weight , double epsilon = f ( 1 , 2 )"
    tokens = f"void rms_norm ( {parameters} ) {{ }}".split()
    text = "".join(token + data.draw(GAPS) for token in tokens) + "\n"
    assert extract(fenced(text, "cpp"), TASK, "cpu").arguments == ("out", "input", "weight", "epsilon")


PATHOLOGICAL = r"""
from fastkernels_env.registry import load_task
from fastkernels_env.submission import MAX_CHARS, RejectedError, extract

task = load_task("rms_norm")
prose = ["`", "```\n", "~~~\n~~~\n", "<think>", "a<think>", "<think></think>", "</think>", "<reasoning><think></think>"]
prose += [" ", "\t", "\n"]
code = ["(", "{", "[", "-", "/*", '"', "'", 'R"(', '"' + chr(92), "<", "a<", "#include <", "__global__ ", "rms_norm(", "=", "def "]
code += ["void rms_norm() a ", "elif x:\n pass\n", "@a\n", ".b", "//", chr(92) + "\n", "lambda:", "not ", "f'{"]
heads = [("", unit) for unit in prose + code] + [(f"```{tag}\n", unit) for tag in ("cpp", "py") for unit in code]
for head, unit in heads:
    for end in ("", "\n```\n"):
        try:
            extract((head + unit * MAX_CHARS)[: MAX_CHARS - len(end)] + end, task, "cpu")
        except RejectedError:
            pass
"""


def test_no_reply_takes_long():
    """A hang guard, not a measurement: quadratic work on any of these would take minutes."""
    subprocess.run([sys.executable, "-c", PATHOLOGICAL], check=True, timeout=120)
