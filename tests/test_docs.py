"""The documentation: pages that follow the tasks, links that lead somewhere."""

import importlib.util
import re
from pathlib import Path

import pytest

from fastkernels_env.registry import load_task, task_folders

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "examples").rglob("*.md")])
TASKS = [name for name, folder in task_folders().items() if folder.resolve().parent == ROOT / "envs"]
CODE = re.compile(r"^```.*?^```[^\S\n]*$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)


@pytest.fixture(scope="module")
def generate():
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def anchors(document: Path) -> set[str]:
    """Anchors that a Markdown viewer gives to the headings of a document."""
    text = re.sub(r"^```.*?^```", "", document.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+\s+(.+?)\s*$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_relative_links_resolve(document):
    text = CODE.sub("", document.read_text())
    for target in (first or second for first, second in LINK.findall(text)):
        if re.match(r"[a-z][a-z0-9+.-]*:", target):
            continue
        path, _, anchor = target.partition("#")
        goal = (document.parent / path).resolve() if path else document
        assert goal.exists(), f"{document.name} links to {target}, which does not exist"
        assert goal.is_relative_to(ROOT), f"{document.name} links to {target}, outside the repository"
        if anchor and goal.suffix == ".md":
            assert anchor in anchors(goal), f"{document.name} links to {target}, but {goal.name} has no such heading"


def test_pages_are_current(generate, capsys):
    status = generate.main(["--check"])
    assert status == 0, capsys.readouterr().err


@pytest.mark.parametrize("name", TASKS)
def test_page_states_what_a_user_needs(name):
    task = load_task(name)
    text = (ROOT / "docs" / "envs" / f"{name}.md").read_text()
    assert f'gym.make("FastKernels/{name}-v0")' in text
    for argument in task.entry_signature:
        assert f"| `{argument.name}` |" in text
    for device in ("cpu", "cuda"):
        for workload in task.workloads(device):
            row = next(line for line in text.splitlines() if line.startswith(f"| `{workload.name}`"))
            cells = [cell.strip() for cell in row.split("|")]
            assert str(workload.count) in cells
            for size, value in workload.sizes.items():
                assert f"{size}={value}" in row
    for file in [*task.seeds(), *(baseline.file for baseline in task.baselines)]:
        assert f"[{file}]" in text
    for mutant in task.mutants():
        assert f"| `{mutant.name}` |" in text


def test_index_lists_every_task():
    text = (ROOT / "docs" / "envs" / "README.md").read_text()
    assert [name for name in TASKS if f"[{name}]({name}.md)" not in text] == []


def test_the_catalogue_names_every_task_once_and_says_which_no_gpu_has_judged(generate):
    text = (ROOT / "README.md").read_text()
    for name in TASKS:
        assert text.count(f"[{name}](docs/envs/{name}.md)") == 1
        assert (f"[{name}](docs/envs/{name}.md)\\*" in text) == (not load_task(name).workloads("cuda"))


def test_a_readme_without_a_place_for_the_catalogue_is_refused(generate):
    with pytest.raises(generate.TaskError, match="to hold the lines"):
        generate.with_catalogue("# fastkernels_env\n", {})


def test_a_page_shows_the_inner_operations(generate):
    text = (ROOT / "docs" / "envs" / "llama_decode_loop.md").read_text()
    assert "### rms_norm(out, input, weight, epsilon)" in text
    assert "`tokens` has a measure of its own" in text


def test_check_names_stale_missing_and_orphaned_pages_and_writes_nothing(generate, tmp_path, capsys):
    assert generate.main(["--folder", str(tmp_path)]) == 0
    assert generate.main(["--check", "--folder", str(tmp_path)]) == 0
    (tmp_path / "rms_norm.md").write_text("old")
    (tmp_path / "README.md").unlink()
    (tmp_path / "no_such_task.md").write_text("left over")
    assert generate.main(["--check", "--folder", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert all(name in message for name in ("rms_norm.md", "README.md", "no_such_task.md"))
    assert (tmp_path / "rms_norm.md").read_text() == "old"
    assert generate.main(["--folder", str(tmp_path)]) == 0
    assert not (tmp_path / "no_such_task.md").exists()


def test_markup_in_prose_is_escaped(generate):
    assert generate.prose("a * b, 2*I and 3*J, `x*y`, _z, snake_case, i < n, <tag>, p|q") == (
        r"a * b, 2\*I and 3\*J, `x*y`, \_z, snake_case, i < n, \<tag>, p\|q"
    )
