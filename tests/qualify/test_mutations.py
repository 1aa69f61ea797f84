"""The mutation engine: what it yields from any source, and from the seeds of every task."""

import ast
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fastkernels_env.qualify.mutations import enumerate_mutations, sample
from fastkernels_env.registry import load_task, task_folders

SEEDS = [(task, seed) for task in task_folders() for seed in load_task(task).seeds()]
STATEMENTS = {
    "a.cpp": (
        "x += y * 2;", "if (i < n) out[i] = a[i] + b;", "for (int i = 0; i < n; ++i) s += v[i];", "return std::min(a, b - 1) / 3.f;",
        'puts("i < n; // 1 + 1");', "/* a + b */ total = p ? q : -r;", "const float* p = x + 4;", "while (k && !done) f(k, 0x1f);",
        "std::vector<std::vector<int>> w(n);", "g<int, 3>(a, b);", "#define LIMIT (1 + 2)\n", "a <<= 1'000;", "}", "(", "x = 'c' ;",
    ),
    "a.py": (
        "x = y + 2", "if i < n:\n    out = a * b", "for i in range(0, n, 4):\n    s += i", "z = f(a, b)(c)",
        "w = tl.load(p, mask=i < n, other=0.0)", "# 1 + 1", "s = 'ä < b'; t = 3 - 1", "q = (a\n     // b)",
        "v = -1.5 if not a & b else min(c, d)", "r = x.to(tl.int64) % 7",
    ),
}


@st.composite
def sources(draw):
    name = draw(st.sampled_from(sorted(STATEMENTS)))
    body = draw(st.lists(st.sampled_from(STATEMENTS[name]), min_size=1, max_size=6))
    text = "\n".join(body) + "\n"
    return name, text if name.endswith(".py") else "void f(int n) {\n" + text + "}\n"


@given(sources())
def test_every_mutant_differs_in_its_span_alone(drawn):
    name, source = drawn
    mutants = {mutation.id: mutation.apply(source) for mutation in enumerate_mutations(name, source)}
    assert len(set(mutants.values())) == len(mutants)
    assert source not in mutants.values()
    for mutation in enumerate_mutations(name, source):
        text = mutation.apply(source)
        assert text[: mutation.start] == source[: mutation.start]
        assert text[mutation.start + len(mutation.after) :] == source[mutation.end :]
        assert source[mutation.start : mutation.end] == mutation.before
        assert mutation.line == source.count("\n", 0, mutation.start) + 1
        if name.endswith(".py"):
            ast.parse(text)


@given(sources())
def test_ids_are_unique_and_the_same_again(drawn):
    ids = [mutation.id for mutation in enumerate_mutations(*drawn)]
    assert len(set(ids)) == len(ids)
    assert ids == [mutation.id for mutation in enumerate_mutations(*drawn)]


@given(sources())
def test_ids_survive_an_edit_elsewhere(drawn):
    name, source = drawn
    comment = "# new\n" if name.endswith(".py") else "// new\n"
    assert [m.id for m in enumerate_mutations(name, comment + source)] == [m.id for m in enumerate_mutations(name, source)]


@given(st.text(max_size=200))
@example("'0/-")
@example("a + b.")
@settings(max_examples=300)
def test_any_text_can_be_taken_for_cpp(text):
    for mutation in enumerate_mutations("a.cpp", text):
        assert mutation.apply(text) != text


@pytest.mark.parametrize(("task", "seed"), SEEDS)
def test_seeds_have_mutants_of_many_kinds(task, seed):
    source = load_task(task).seeds()[seed]
    mutations = enumerate_mutations(seed, source)
    assert len(mutations) >= 60
    assert len({mutation.operator for mutation in mutations}) >= 10
    assert len({mutation.apply(source) for mutation in mutations} | {source}) == len(mutations) + 1
    if seed.endswith(".py"):
        for mutation in mutations:
            ast.parse(mutation.apply(source))


def test_comments_strings_and_directives_are_left_alone():
    source = '#define N (1 + 2)\nvoid f() { g("1 + 2"); /* 1 + 2 */ } // 1 + 2\nconst char* s = R"x(1 + 2)x";\n'
    assert {mutation.before for mutation in enumerate_mutations("a.cpp", source)} == {'g("1 + 2")'}


def test_a_sample_takes_operators_in_turn_and_is_the_same_again():
    source = load_task("rms_norm").seeds()["cpu.cpp"]
    mutations = enumerate_mutations("cpu.cpp", source)
    operators = {mutation.operator for mutation in mutations}
    chosen = sample(mutations, len(operators), 3)
    assert {mutation.operator for mutation in chosen} == operators
    assert chosen == sample(list(reversed(mutations)), len(operators), 3)
    assert chosen != sample(mutations, len(operators), 4)
    assert sorted(m.id for m in sample(mutations, 10**6, 3)) == sorted(m.id for m in mutations)


def test_other_languages_are_refused():
    with pytest.raises(ValueError, match=r"expected a seed in \.py, \.cpp or \.cu, got 'a\.rs'"):
        enumerate_mutations("a.rs", "fn f() {}")


def test_python_that_does_not_parse_is_refused():
    with pytest.raises(SyntaxError):
        enumerate_mutations("a.py", "def f(:")


def test_spans_count_characters_where_the_parser_counts_bytes(tmp_path: Path):
    source = "s = 'äöü'; t = a - b\n"
    assert "s = 'äöü'; t = a + b\n" in {mutation.apply(source) for mutation in enumerate_mutations("a.py", source)}
