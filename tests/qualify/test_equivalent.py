"""Every task's list of equivalent mutations fits its seeds and says why; a list that does not is an error."""

import pytest

from fastkernels_env.qualify.candidates import candidates
from fastkernels_env.qualify.equivalent import entry_text, load_equivalents
from fastkernels_env.qualify.mutations import enumerate_mutations
from fastkernels_env.registry import load_task, task_folders
from fastkernels_env.task import TaskError


@pytest.mark.parametrize("name", task_folders())
def test_entries_fit_the_seeds_and_have_a_reason(name):
    for entry in load_equivalents(load_task(name)).values():
        assert len(entry.reason.split()) >= 4, entry


@pytest.fixture
def folder(tmp_path, task_files, monkeypatch):
    monkeypatch.setenv("FASTKERNELS_ENV_PATH", str(tmp_path))
    return task_files(tmp_path / "listed_scale")


def test_no_file_means_none(folder):
    assert load_equivalents(load_task("listed_scale")) == {}


def test_an_entry_is_found_by_its_id(folder):
    task = load_task("listed_scale")
    source = task.seeds()["cpu.cpp"]
    mutation = enumerate_mutations("cpu.cpp", source)[5]
    (folder / "equivalent.toml").write_text(entry_text(mutation, source).replace('reason = ""', 'reason = "it is so"'))
    assert {id: entry.reason for id, entry in load_equivalents(task).items()} == {mutation.id: "it is so"}
    seed = folder / "seeds" / "cpu.cpp"
    seed.write_text("// another line\n" + seed.read_text())
    assert set(load_equivalents(task)) == {mutation.id}


@pytest.mark.parametrize(("devices", "reason"), [('["cpu"]', "it is so"), ('["cuda"]', "")])
def test_an_entry_for_one_kind_of_device_counts_there_alone(folder, devices, reason):
    task = load_task("listed_scale")
    source = task.seeds()["cpu.cpp"]
    mutation = enumerate_mutations("cpu.cpp", source)[5]
    entry = entry_text(mutation, source).replace('reason = ""', f'reason = "it is so"\ndevices = {devices}')
    (folder / "equivalent.toml").write_text(entry)
    assert [c.equivalent for c in candidates(task, "cpu", 4000, 0) if c.id == mutation.id] == [reason]


@pytest.mark.parametrize(("text", "message"), [
    ("[[equivalent", "is no list of equivalent mutations"),
    ('[[equivalent]]\nid = "1"\n', "is no list of equivalent mutations"),
    (
        '[[equivalent]]\nid = "1"\nseed = "cpu.cpp"\nbefore = "a"\nafter = "b"\nreason = "c"\n',
        "calls 1 of cpu.cpp equivalent, which is no",
    ),
    ('[[equivalent]]\nid = "1"\nseed = "a"\nbefore = "a"\nafter = "b"\nreason = "c"\ndevices = ["gpu"]\n', "is no list of equivalent"),
    (
        '[[equivalent]]\nid = "1"\nseed = "none.cpp"\nbefore = "a"\nafter = "b"\nreason = "c"\n',
        "calls 1 of none.cpp equivalent, which is no",
    ),
])
def test_a_list_that_does_not_fit_is_an_error(folder, text, message):
    (folder / "equivalent.toml").write_text(text)
    with pytest.raises(TaskError, match=f"task 'listed_scale': .*{message}"):
        load_equivalents(load_task("listed_scale"))
