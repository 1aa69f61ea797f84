"""The examples that train on the judged grammar: run as a user does, with small budgets, on records that are built here."""

import csv
import html
import importlib
import math
import re
import runpy
import string
import subprocess
import sys
from collections import Counter
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastkernels_env.log import encode_record, open_log, read_log
from fastkernels_env.reward import load_preset
from fastkernels_env.types import Check, Context, DeviceInfo, Evaluation, Outcome, Speedup, Stage, Status, Timing

EXAMPLES = Path(__file__).parents[1] / "examples"
SPEED = {"scalar": 0.5, "simd": 1.0, "vector": 1.5, "tiles": 1.4, "serial": 0.6, "parallel": 1.0, "dynamic": 1.1, "throttled": 2.0,
         "float": 1.0, "double": 0.7, "fixed": 1.05, "store": 1.0, "stream": 1.2, "kept": 40.0}
"""How fast the options make a program, as a factor."""


@pytest.fixture(autouse=True)
def one_thread():
    """As the examples run: several threads wait for each other longer than these tensors take."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def load_example(name):
    """An example as a module; they import each other from their own folder."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(EXAMPLES))


def load_grammar():
    return load_example("grammar")


def outcome_of(loop, threads, sums, result):
    """What our judge says of a program, about."""
    if loop == "scalar" and result == "stream":
        return Outcome.BUILD_FAILED
    if loop == "tiles" and sums == "double":
        return Outcome.WRONG
    if result == "kept":
        return Outcome.TAMPERED
    if loop == "tiles" or sums == "fixed":
        return Outcome.SILENT_ERROR
    return Outcome.STACK_CONFLICT if threads == "throttled" else Outcome.ACCEPTED


def record(program, usual):
    """A record of a program, by our judge or the usual one."""
    outcome, ratio = outcome_of(*program), 1.0
    for option in program:
        ratio *= SPEED[option]
    runs = outcome not in (Outcome.BUILD_FAILED, Outcome.WRONG)
    if usual and runs:
        outcome = Outcome.ACCEPTED
    baselines = {"eager": 100.0} if usual else {"eager": 110.0, "compile": 100.0}
    timing = Timing(
        workload="decode", count=1, candidate_us=100.0 / ratio, baselines=baselines, best_baseline=list(baselines)[-1], speed_of_light=None
    )
    speedup = Speedup(estimate=ratio, low=0.95 * ratio, high=1.05 * ratio, worst=ratio, worst_workload="decode")
    smoke = Status.NOT_RUN if outcome is Outcome.BUILD_FAILED else Status.PASSED if runs else Status.FAILED
    return Evaluation(
        id="|".join(program), created="2026-11-22T15:00:00Z", task="rms_norm", task_version=2, effort="usual" if usual else "quick", seed=1,
        device=DeviceInfo(kind="cpu", name="Test CPU"), outcome=outcome, reason="built by a test",
        checks=[Check(name="smoke", stage=Stage.SMOKE, status=smoke)], speedup=speedup if runs else None, timings=[timing] if runs else [],
        workloads_right=float(outcome is Outcome.ACCEPTED), context=Context(run="grammar", group="rms_norm", episode="|".join(program)),
        versions={"torch": "2.13.0"},
    )


def write_logs(folder):
    """Both logs of the whole grammar, in a folder."""
    for name, usual in (("grammar.jsonl.xz", False), ("grammar-usual.jsonl.xz", True)):
        with open_log(folder / name, "wb") as file:
            for program in load_grammar().programs():
                file.write(encode_record(record(program, usual)))
    return folder


@pytest.fixture(scope="module")
def logs(tmp_path_factory):
    return write_logs(tmp_path_factory.mktemp("logs"))


def run(name, *arguments):
    """What an example prints, run as a user does."""
    done = subprocess.run([sys.executable, str(EXAMPLES / name), *map(str, arguments)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def refused(monkeypatch, capsys):
    """Runs an example that must end with status 2, and gives what it says."""
    def run(name, *arguments):
        monkeypatch.setattr(sys, "argv", [f"{name}.py", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            load_example(name).main()
        assert ended.value.code == 2
        return capsys.readouterr().err

    return run


def test_grpo_learns_by_replay_and_finds_a_faster_kernel(logs, tmp_path):
    plot, log = tmp_path / "curve.svg", tmp_path / "proposed.jsonl"
    data = logs / "grammar.jsonl.xz"
    told = run("train_grpo.py", "--log", data, "--seeds", 3, "--steps", 30, "--plot", plot, "--out", log, "--out-every", 29)
    assert told.startswith("replay of 144 judged programs, reward production, 3 seeds")
    low, high = map(float, re.search(r"95 % interval over 3 seeds: (\S+) to (\S+)", told).groups())
    assert 0 < low <= high
    seed, best = (float(re.search(rf"{name}: .*speedup ([\d.]+) \(", told)[1]) for name in ("the seed", "the best kernel proposed"))
    assert best > seed
    assert plot.read_text().startswith("<svg")

    records = read_log(log)
    assert len(records) == 3 * 2 * 32  # seeds, logged steps, replies a step
    assert len({record.id for record in records}) == len(records)
    assert {record.context.policy_step for record in records} == {0, 29}
    assert {record.context.run for record in records} == {f"grpo, production, seed {seed}" for seed in range(3)}
    groups = Counter((record.context.run, record.context.group) for record in records)
    assert set(groups.values()) == {16}
    preset = load_preset("production")
    assert all(record.rewards["production"].total == pytest.approx(preset.score(record).total) for record in records)


def rewards_of(logs, **options):
    """Rewards of all steps, float32 of shape [steps, seeds, batch]."""
    grpo = load_example("train_grpo")
    options = grpo.Options(**options)
    log = grpo.load(logs / "grammar.jsonl.xz")
    steps = grpo.train(grpo.make_policy(options), grpo.replay(log), load_preset(options.reward), options)
    return torch.stack([step.rewards for step in steps])


def test_grpo_repeats_itself_and_a_seed_does_not_depend_on_the_others(logs):
    two = rewards_of(logs, seeds=2, steps=4, reward="kevin")
    assert torch.equal(two, rewards_of(logs, seeds=2, steps=4, reward="kevin"))
    assert torch.equal(two[:, :1], rewards_of(logs, seeds=1, steps=4, reward="kevin"))
    assert not torch.equal(two[:, 0], two[:, 1])


def test_grpo_learns_the_grammar_where_any_token_may_stand_anywhere(logs):
    rewards = rewards_of(logs, seeds=2, steps=60, free=True)
    rejected = (rewards + 0.5).abs() < 0.06  # the band of `rejected`
    assert rejected[0].float().mean() > 0.9 > 0.5 > rejected[-1].float().mean()
    assert rewards[-1].mean() > rewards[0].mean()


def test_grpo_says_what_is_wrong(logs, tmp_path, refused):
    assert "unknown preset 'nobody'" in refused("train_grpo", "--reward", "nobody")
    assert "cannot be read" in refused("train_grpo", "--log", tmp_path / "none.jsonl")
    few = tmp_path / "few.jsonl"
    few.write_bytes(encode_record(record(load_grammar().SEED, False)))
    assert "143 are missing" in refused("train_grpo", "--log", few)
    assert "--free" in refused("train_grpo", "--free", "--model", "any")


def test_advantages_are_relative_to_the_group_and_leave_faults_out():
    grpo = load_example("train_grpo")
    rewards = torch.tensor([[1.0, 3.0, float("nan"), 5.0, 5.0, 5.0]])
    assert grpo.advantages(rewards, 3).tolist()[0] == pytest.approx([-1, 1, 0, 0, 0, 0], abs=1e-3)
    assert grpo.advantages(2 * rewards - 7, 3).tolist()[0] == pytest.approx([-1, 1, 0, 0, 0, 0], abs=1e-3)


@given(st.permutations(range(144)))
def test_tokens_spell_their_programs(order):
    grpo, grammar = load_example("train_grpo"), load_grammar()
    programs = [grammar.programs()[index] for index in order[:20]]
    assert grpo.spell(grpo.tokens_of(programs)[None]) == [programs]


def test_tokens_of_other_slots_spell_nothing():
    grpo, grammar = load_example("train_grpo"), load_grammar()
    tokens = grpo.tokens_of([grammar.SEED])
    assert grpo.spell(tokens.flip(-1)[None]) == [[None]]


def test_probabilities_of_all_programs_sum_to_one_and_sampling_follows_them():
    ablation, grpo = load_example("ablation"), load_example("train_grpo")
    policy, mask = grpo.make_policy(grpo.Options(seeds=2)), grpo.allowed(free=False)
    probabilities = ablation.probabilities_of(policy, mask, 2)
    assert probabilities.sum(1) == pytest.approx([1, 1], abs=1e-5)
    assert (probabilities[0] != probabilities[1]).any()
    tokens = grpo.sample(policy, 4000, mask, [torch.Generator().manual_seed(seed) for seed in range(2)])
    programs = {program: index for index, program in enumerate(load_grammar().programs())}
    for row, batch in zip(probabilities, grpo.spell(tokens), strict=True):
        counts = np.bincount([programs[program] for program in batch], minlength=144) / 4000
        assert np.abs(counts - row).max() < 0.05


def test_a_change_of_one_token_leaves_what_comes_before_it():
    grpo = load_example("train_grpo")
    policy, tokens = grpo.make_policy(grpo.Options(seeds=2)), torch.tensor([[[0, 1, 5]], [[0, 2, 6]]])
    changed = tokens.clone()
    changed[..., 2] = 7
    before, after = policy(tokens), policy(changed)
    assert torch.equal(before[:, :, :2], after[:, :, :2])
    assert not torch.equal(before[:, :, 2], after[:, :, 2])


def test_a_metric_over_seeds():
    over_seeds = load_example("ablation_table").over_seeds
    middle, low, high = over_seeds(np.array([100.0, 1, 2, 3, 4, -50, 5, 0]))
    assert middle == pytest.approx(2.5)  # of the middle half: 1, 2, 3, 4
    assert low < middle < high
    assert over_seeds(np.array([0.0, 1, 1, 1]), "accepted")[0] == pytest.approx(0.75)  # of a share, so that shares sum to 1
    assert over_seeds(np.array([float("nan"), 7.0])) == pytest.approx((7, float("nan"), float("nan")), nan_ok=True)
    assert over_seeds(np.array([float("nan")])) == pytest.approx((float("nan"),) * 3, nan_ok=True)


def test_what_a_judge_believes_is_the_count_weighted_speedup_over_eager():
    over_eager = load_example("ablation_table").over_eager
    timed = record(load_grammar().SEED, False)
    assert over_eager(timed) == pytest.approx(1.1)
    slow = msgspec.structs.replace(timed.timings[0], workload="prefill", count=3, candidate_us=200.0)
    assert over_eager(msgspec.structs.replace(timed, timings=[*timed.timings, slow])) == pytest.approx((110 + 330) / (100 + 600))
    assert math.isnan(over_eager(msgspec.structs.replace(timed, timings=[])))
    assert math.isnan(over_eager(msgspec.structs.replace(timed, checks=[])))


@pytest.fixture(scope="module")
def study(logs, tmp_path_factory):
    out = tmp_path_factory.mktemp("ablation")
    data = ("--log", logs / "grammar.jsonl.xz", "--usual-log", logs / "grammar-usual.jsonl.xz")
    return out, run("ablation.py", *data, "--out", out, "--seeds", 2, "--steps", 5)


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_an_ablation_covers_every_reward_and_both_judges(study):
    out, told = study
    arms = {(judge, reward) for judge in ("ours", "usual") for reward in load_example("ablation").REWARDS}
    for name in ("summary.csv", "seeds.csv", "curves.csv"):
        assert {(row["judge"], row["reward"]) for row in rows(out / name)} == arms
    assert len(rows(out / "programs.csv")) == 144
    assert {"speedup", "speedup_low", "over_seed", "believed", "paid", "production"} < {row["metric"] for row in rows(out / "summary.csv")}
    assert all(reward in told for _, reward in arms)


def test_shares_of_an_ablation_sum_to_one(study):
    out, _ = study
    shares = load_example("ablation_page").SHARES
    for row in rows(out / "seeds.csv"):
        assert sum(float(row[name]) for name in shares) == pytest.approx(1, abs=1e-4)
    summary = rows(out / "summary.csv")
    for arm in {(row["judge"], row["reward"]) for row in summary}:
        found = [float(row["value"]) for row in summary if (row["judge"], row["reward"]) == arm and row["metric"] in shares]
        assert sum(found) == pytest.approx(1, abs=1e-4)


def test_arms_start_alike(study):
    out, _ = study
    starts = [(row["value"], row["low"]) for row in rows(out / "curves.csv") if row["step"] == "0" and row["metric"] == "production"]
    assert len(starts) == 16
    assert len(set(starts)) == 1


def test_the_log_of_an_ablation_holds_what_our_judge_says_and_what_was_paid(study):
    out, _ = study
    kevin = load_preset("kevin")
    records = [record for record in read_log(out / "proposed.jsonl.xz") if record.context.run == "usual, kevin, seed 0"]
    assert records
    for found in records:
        program = tuple(found.context.episode.split("|"))
        assert found.outcome is outcome_of(*program)
        assert found.rewards["kevin"].total == pytest.approx(kevin.score(record(program, True)).total, rel=1e-5)


def test_the_page_and_the_text_of_an_ablation_agree(study):
    out, _ = study
    page, text = (out / "index.html").read_text(), (out / "README.md").read_text()
    assert page.count("<svg") == 4
    assert "nan" not in re.sub(r"<style.*?</style>|<svg.*?</svg>", "", page, flags=re.DOTALL).lower().split()
    found = text.split("## Found")[1].split("##")[0].strip().splitlines()
    assert len(found) >= 4
    assert "30 accepted" in found[0]
    assert all(line.removeprefix("* ").replace("`", "") in html.unescape(page) for line in found)


def test_the_page_opens_in_a_browser(study):
    browser = runpy.run_path(str(Path(__file__).parent / "browser.py"))
    if browser["find"]() is None:
        pytest.skip("no browser is installed")
    seen = browser["look"](study[0] / "index.html")
    assert len(seen.pictures) == 4
    assert all(width > 300 and height > 150 for width, height in seen.pictures)
    assert (seen.repeated, seen.dangling, seen.scripts, seen.console) == ([], [], 0, [])
    assert seen.width <= 1100


def test_an_ablation_says_what_is_wrong(logs, tmp_path, refused):
    data = ("--log", logs / "grammar.jsonl.xz", "--usual-log", logs / "grammar-usual.jsonl.xz")
    assert "nobody" in refused("ablation", "--out", tmp_path / "out", "--rewards", "production,nobody", *data)
    assert not (tmp_path / "out").exists()


def test_a_language_model_learns_by_the_same_code(logs, tmp_path):
    pytest.importorskip("transformers")
    make_model(tmp_path / "model")
    rewards = rewards_of(logs, model=str(tmp_path / "model"), seeds=2, steps=15, learning_rate=3e-3)
    assert (rewards[-1].mean(1) > rewards[0].mean(1)).all()


def make_model(folder):
    """A tiny Llama with a tokenizer of words, as a folder that `from_pretrained` reads."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, **{letter: 1 + place for place, letter in enumerate(string.ascii_uppercase)}}, "[UNK]"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=32, max_position_embeddings=512, **sizes)).save_pretrained(folder)


@pytest.mark.slow
def test_grpo_goes_on_with_the_real_judge(logs):
    told = run("train_grpo.py", "--log", logs / "grammar.jsonl.xz", "--seeds", 1, "--steps", 40, "--live", 1, "--live-group", 2)
    judged = told.split("live: 1 steps of 2 replies")[1].splitlines()[1:]
    assert len(judged) == 2
    assert all(re.match(r" +0 +-?\d\.\d{3}  [a-z|]+: [a-z_]+, speedup ", line) for line in judged)
