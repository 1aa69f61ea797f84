"""Each kind of mistake, by example: what an operator makes of a line, and what it must leave alone."""

import pytest

from fastkernels_env.qualify.mutations import enumerate_mutations


def mutants(name, source):
    return {(mutation.operator, mutation.apply(source).strip()) for mutation in enumerate_mutations(name, source)}


def in_function(statement):
    return f"void f() {{\n{statement}\n}}\n"


CPP = [
    ("comparison", "if (i < n) return;", "if (i <= n) return;"),
    ("comparison", "if (a == b) return;", "if (a != b) return;"),
    ("bound", "if (i < n) return;", "if (i < (n - 1)) return;"),
    ("bound", "for (int i = 0; i < a[n] + 1; ++i) g();", "for (int i = 0; i < (a[n] + 1 + 1); ++i) g();"),
    ("constant", "int i = 0;", "int i = 1;"),
    ("constant", "x = 0x1fu + 6u;", "x = 0x1fu + 7u;"),
    ("constant", "x = 1.f / 720.f;", "x = 2.f / 720.f;"),
    ("constant", "x = 1.f / 720.f;", "x = 1.f / 1440.0f;"),
    ("start", "for (int k = n; k < 9; k += 8) g();", "for (int k = (n) + 1; k < 9; k += 8) g();"),
    ("step", "for (int i = 0; i < n; ++i) g();", "for (int i = 0; i < n; i += 2) g();"),
    ("step", "for (; k < n; k += kLanes) g();", "for (; k < n; k += 2 * (kLanes)) g();"),
    ("arithmetic", "x = a % b;", "x = a / b;"),
    ("arithmetic", "x += v * v;", "x -= v * v;"),
    ("dropped term", "x = a * fk::load(w + h);", "x = a;"),
    ("dropped term", "x = (a + b) / c[i].d(e)[0] + f;", "x = (a + b) + f;"),
    ("dropped sign", "x = g(-a);", "x = g(a);"),
    ("logic", "if (a && b) g();", "if (a || b) g();"),
    ("negated condition", "if (a && b) g();", "if (!(a && b)) g();"),
    ("negated condition", "x = s ? s[i] : 1.f;", "x = !(s) ? s[i] : 1.f;"),
    ("dropped guard", "if (sorted[i] >= n) continue;", "if (true) continue;"),
    ("dropped guard", "x = s ? s[i] : 1.f;", "x = false ? s[i] : 1.f;"),
    ("index", "x = a[i];", "x = a[0];"),
    ("index", "x = a[i];", "x = a[i + 1];"),
    ("swapped index", "x = a[i][j];", "x = a[j][i];"),
    ("swapped arguments", "g(a, b + 1, c);", "g(b + 1, a, c);"),
    ("minimum and maximum", "x = std::min<int>(a, b);", "x = std::max<int>(a, b);"),
    ("dropped cast", "x = int64_t(a) * b;", "x = (a) * b;"),
    ("dropped cast", "x = static_cast<float>(a);", "x = (a);"),
    ("dropped statement", "x += y; g();", "; g();"),
    ("dropped statement", "x += y; g();", "x += y; ;"),
    ("dropped statement", "switch (x) { case 1: g(); break; }", "switch (x) { case 1: g(); ; }"),
    ("coarse accumulator", "float s = 0.f; s += v;",
     "float s = 0.f; { fk::bf16 coarse; fk::store(&coarse, s + (v)); s = fk::load(&coarse); }"),
    ("coarse type", "float s = 0.f;", "_Float16 s = 0.f;"),
    ("narrow integer", "const int64_t n = x.size(0);", "const int8_t n = x.size(0);"),
]


@pytest.mark.parametrize(("operator", "before", "after"), CPP)
def test_cpp(operator, before, after):
    assert (operator, in_function(after).strip()) in mutants("a.cpp", in_function(before))


CUDA = [
    ("dropped barrier", "__syncthreads();", ";"),
    ("coarse type", "float s = 0.f;", "__half s = 0.f;"),
    ("narrowed index", "const int64_t at = p;", "const int32_t at = p;"),
    ("constant", "k<<<rows, 1, 0, stream>>>(a);", "k<<<rows, 1, 1, stream>>>(a);"),
]


@pytest.mark.parametrize(("operator", "before", "after"), CUDA)
def test_cuda(operator, before, after):
    assert (operator, in_function(after).strip()) in mutants("a.cu", in_function(before))


LEFT_ALONE = [
    "float* p;",  # a declaration, not a product
    "const T *keys[kChunk];",
    "std::vector<float> v;",  # template brackets compare nothing
    "auto f = g<int>;",
    "return;",
]


@pytest.mark.parametrize("statement", LEFT_ALONE)
def test_cpp_without_mutants(statement):
    assert mutants("a.cpp", in_function(statement)) == set()


def test_arguments_of_min_and_max_are_not_swapped():
    assert not [m for m in mutants("a.cpp", in_function("x = std::min<int>(a, b);")) if m[0] == "swapped arguments"]
    assert not [m for m in mutants("a.py", "x = tl.minimum(a, b)\n") if m[0] == "swapped arguments"]


def test_parameters_of_a_definition_are_not_swapped():
    assert mutants("a.cpp", "static void f(const float* x, int64_t n) {}\n") == set()


PYTHON = [
    ("dropped mask", "v = tl.load(p, mask=m, other=0.0)", "v = tl.load(p)"),
    ("dropped mask", "v = tl.load(p, mask=m, cache='x')", "v = tl.load(p, cache='x')"),
    ("dropped mask", "m = (a < b) & c", "m = c"),
    ("comparison", "m = a < b", "m = a <= b"),
    ("bound", "m = a < b", "m = a < (b - 1)"),
    ("bound", "for i in range(n):\n    x = i", "for i in range((n - 1)):\n    x = i"),
    ("start", "for i in range(n):\n    x = i", "for i in range(1, n):\n    x = i"),
    ("step", "for i in range(a, n, B):\n    x = i", "for i in range(a, n, 2 * B):\n    x = i"),
    ("constant", "v = tl.load(p, mask=m, other=0.0)", "v = tl.load(p, mask=m, other=1.0)"),
    ("constant", "x = 1.4426", "x = 2.8852"),
    ("arithmetic", "x = a // b", "x = a * b"),
    ("arithmetic", "x += a", "x -= a"),
    ("dropped term", "x = (a + b) / c", "x = (a + b)"),
    ("dropped sign", "x = f(-a)", "x = f(a)"),
    ("negated condition", "if a < b:\n    x = 1", "if not (a < b):\n    x = 1"),
    ("dropped guard", "x = tl.where(m, a, b)", "x = a"),
    ("coarse type", "s = tl.zeros((B,), tl.float32)", "s = tl.zeros((B,), tl.bfloat16)"),
    ("narrowed index", "r = tl.program_id(0).to(tl.int64)", "r = tl.program_id(0).to(tl.int32)"),
    ("narrowed index", "r = tl.program_id(0).to(tl.int64)", "r = tl.program_id(0)"),
    ("dropped cast", "v = a.to(tl.float32)", "v = a"),
    ("dropped statement", "x = 0\nx += a", "x = 0\npass"),
    ("dropped statement", "x = 0\nx = a", "x = 0\npass"),
    ("dropped statement", "tl.store(p, v)", "pass"),
    ("swapped arguments", "f(a, b, c=1)", "f(b, a, c=1)"),
    ("minimum and maximum", "x = tl.minimum(a, b)", "x = tl.maximum(a, b)"),
]


@pytest.mark.parametrize(("operator", "before", "after"), PYTHON)
def test_python(operator, before, after):
    assert (operator, after) in mutants("a.py", before + "\n")


def test_launch_options_are_left_alone():
    source = "def f(x, n):\n    warps = min(8, n // 4)\n    k[(n,)](x, num_warps=warps, num_stages=3)\n"
    assert not [m for m in enumerate_mutations("a.py", source) if m.operator in ("constant", "minimum and maximum", "arithmetic")]
