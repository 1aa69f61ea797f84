"""GRPO: a small language model, from scratch, learns to write kernels as the tokens of a finite grammar.

A reply is one token per slot of `grammar.CHOICES`. Every program of the grammar was judged once, into a log that is committed; training
replays that log, so several policies learn in a minute without judging anything. Advantages are relative to the group, the ratio is
clipped (PPO), and the KL divergence to the start policy costs (Shao et al. 2024, arXiv 2402.03300).

    python examples/train_grpo.py                                    # replay, five seeds
    python examples/train_grpo.py --plot curve.svg                   # draws the curve too; needs the extra `plots`
    python examples/train_grpo.py --live 3                           # and then three steps that are really judged
    python examples/train_grpo.py --reward kevin --out proposed.jsonl
    python examples/train_grpo.py --model Qwen/Qwen3-0.6B --seeds 1  # a Hugging Face model instead; needs transformers

It prints a learning curve (mean, lowest and highest seed, what our judge says of the proposals), then start and end with an interval over
seeds, what is proposed at the end, and the best kernel found beside the task's seed. With ``--live`` it then prints each reply that was
judged. Expected output, in five seconds on two cores (lines left out):

    replay of 144 judged programs, reward production, 5 seeds

     step     mean   lowest  highest accepted   silent conflict   cheats
        0   -0.192   -0.450    0.247      28%      61%       2%       0%
       10    1.004    0.678    1.123      86%       9%       2%       0%
       40    1.349    1.264    1.402      98%       1%       1%       0%
       79    1.373    1.330    1.402      99%       1%       0%       0%

    mean reward: -0.192 in the first step, 1.383 in the last 5
    gained 1.575, 95 % interval over 5 seeds: 1.321 to 1.786
    proposed at the end: accepted 99%, silent_error 1%, build_failed 0%, stack_conflict 0%
    most often: simd|dynamic|float|stream (96%)
    the seed: simd|parallel|float|store: accepted, speedup 1.97 (1.73 to 2.22)
    the best kernel proposed: simd|dynamic|float|stream: speedup 2.13 (1.96 to 2.29)

Programs that skip calls end as silent errors (`perturbation`), so that no cheat is counted apart.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import dataclasses
import itertools
import math
import string
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import grammar
import msgspec
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from fastkernels_env import Evaluator
from fastkernels_env._terminal import Problem
from fastkernels_env.log import LogError, encode_record, open_log
from fastkernels_env.reward import Preset, PresetError, load_preset
from fastkernels_env.types import Context, Evaluation, Item, Outcome, Reward

Batch = list[list[grammar.Program | None]]
"""Programs by seed and place in the batch; None where the tokens spell none."""
Judge = Callable[[Batch, int], list[list[Evaluation]]]
"""What judges the batch of a step."""


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings, each one an argument of the command line."""

    reward: str = "production"  # preset, by name or file
    log: str = str(grammar.LOG)  # judged log that is replayed
    seeds: int = 5  # policies that learn side by side, each from its own start
    steps: int = 80
    groups: int = 2  # per step and seed
    group_size: int = 16
    epochs: int = 2  # updates per batch
    learning_rate: float = 0.0  # 0: 1e-3, or 1e-5 with --model
    clip: float = 0.2  # of the ratio
    kl: float = 0.02  # price of a nat of divergence from the start policy, per token
    width: int = 32  # of the transformer
    layers: int = 2
    free: bool = False  # any token may stand anywhere: the grammar has to be learnt too
    model: str = ""  # Hugging Face model, by name or folder, instead of the transformer
    device: str = "cpu"  # that the policy runs on
    live: int = 0  # steps of the first seed that are really judged, after the replay
    live_group: int = 4  # replies per live step
    effort: str = "quick"  # of the live judge, on the CPU
    out: str = ""  # log of what was proposed, with run, group and step, for `fastkernels-env report` and `ablate`
    out_every: int = 10  # steps
    plot: str = ""  # SVG file for the learning curve


# --- The tokens of the grammar: 0 starts a reply, then the options of each slot in order.

SLOTS = tuple(grammar.CHOICES.values())
FIRST = tuple(itertools.accumulate((len(options) for options in SLOTS), initial=1))
LENGTH, VOCABULARY = len(SLOTS), FIRST[-1]
WORDS = ("", *itertools.chain.from_iterable(SLOTS))


def spell(tokens: Tensor) -> Batch:
    """The programs of tokens of shape [seeds, batch, slots]."""
    def program(reply: list[int]) -> grammar.Program | None:
        inside = all(FIRST[slot] <= token < FIRST[slot + 1] for slot, token in enumerate(reply))
        return tuple(WORDS[token] for token in reply) if inside else None

    return [[program(reply) for reply in batch] for batch in tokens.tolist()]


def tokens_of(programs: Sequence[grammar.Program]) -> Tensor:
    """Tokens of programs, int64 of shape [programs, slots]."""
    return torch.tensor([[FIRST[i] + SLOTS[i].index(word) for i, word in enumerate(program)] for program in programs])


def allowed(free: bool) -> Tensor:
    """Which tokens may stand in a slot, bool of shape [slots, vocabulary]."""
    mask = torch.zeros(LENGTH, VOCABULARY, dtype=torch.bool)
    for slot in range(LENGTH):
        mask[slot, 1 if free else FIRST[slot] : None if free else FIRST[slot + 1]] = True
    return mask


# --- Policies: int64 tokens of shape [seeds, batch, time] to logits of shape [seeds, batch, time, vocabulary].


class Linear(nn.Module):
    """A linear layer for each seed."""

    def __init__(self, seeds: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(seeds, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(seeds, 1, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Values of shape [seeds, ..., inputs] to [seeds, ..., outputs]."""
        return torch.baddbmm(self.bias, x.flatten(1, -2), self.weight).reshape(*x.shape[:-1], -1)


class Block(nn.Module):
    """Causal attention with two heads, then a feed-forward part, each on normalised values and added to them."""

    def __init__(self, seeds: int, width: int) -> None:
        super().__init__()
        self.attend, self.join = Linear(seeds, width, 3 * width), Linear(seeds, width, width)
        self.up, self.down = Linear(seeds, width, 4 * width), Linear(seeds, 4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Values of shape [seeds, batch, time, width] to the same shape."""
        query, key, value = self.attend(functional.layer_norm(x, x.shape[-1:])).unflatten(-1, (3, 2, -1)).permute(3, 0, 1, 4, 2, 5)
        heads = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.join(heads.transpose(2, 3).flatten(3))
        fed: Tensor = self.down(functional.gelu(self.up(functional.layer_norm(x, x.shape[-1:]))))
        return x + fed


class Transformer(nn.Module):
    """A small causal transformer for each seed, all in one module. Each draws its start from its own seed."""

    def __init__(self, seeds: Sequence[int], width: int, layers: int) -> None:
        super().__init__()
        count = len(seeds)
        self.embed = nn.Parameter(torch.zeros(count, VOCABULARY, width))
        self.place = nn.Parameter(torch.zeros(count, LENGTH, width))
        self.blocks = nn.Sequential(*[Block(count, width) for _ in range(layers)])
        self.head = Linear(count, width, VOCABULARY)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        for name, parameter in self.named_parameters():
            if not name.endswith("bias"):
                drawn = [torch.randn(parameter.shape[1:], generator=generator) for generator in generators]
                parameter.data = 0.5 * torch.stack(drawn) / parameter.shape[1] ** (0.5 if name.endswith("weight") else 0.0)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens."""
        seed = torch.arange(len(self.embed), device=tokens.device)[:, None, None]
        x = self.blocks(self.embed[seed, tokens] + self.place[:, None, : tokens.shape[2]])
        logits: Tensor = self.head(functional.layer_norm(x, x.shape[-1:]))
        return logits

    def keep_first(self) -> None:
        """Drop all seeds but the first."""
        for parameter in self.parameters():
            parameter.data = parameter.data[:1]


class LanguageModel(nn.Module):
    """A Hugging Face causal model for each seed. The prompt lists the options of each slot as letters; a reply is letters."""

    prompt: Tensor
    label: Tensor

    def __init__(self, name: str, seeds: int) -> None:
        super().__init__()
        from transformers import AutoModelForCausalLM, AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(name)
        letters = string.ascii_uppercase[: max(map(len, SLOTS))]
        labels = [tokenizer.encode(f" {letter}", add_special_tokens=False)[-1] for letter in letters]
        if len(set(labels)) < len(labels):
            raise Problem(f"the tokenizer of {name} has no token of its own for each of {', '.join(letters)}: use another model")
        lines = ["Write rms_norm in C++ for a CPU, right and fast. Choose an option for each:"]
        for slot, words in grammar.CHOICES.items():
            lines.append(f"{slot}: " + ", ".join(f"{letter}) {word}" for letter, word in zip(letters, words, strict=False)))
        prompt = tokenizer.encode("\n".join([*lines, "Choices:"]))
        options = [token - first for first, end in itertools.pairwise(FIRST) for token in range(first, end)]
        self.register_buffer("prompt", torch.tensor(prompt))
        self.register_buffer("label", torch.tensor([labels[0], *[labels[option] for option in options]]))
        self.models = nn.ModuleList(AutoModelForCausalLM.from_pretrained(name).float() for _ in range(seeds))
        self.eval()  # no dropout: the ratio compares the same function

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits of tokens."""
        return torch.stack([self._logits(model, each) for model, each in zip(self.models, tokens, strict=True)])

    def _logits(self, model: nn.Module, tokens: Tensor) -> Tensor:
        ids = torch.cat([self.prompt.expand(len(tokens), -1), self.label[tokens[:, 1:]]], 1)
        logits: Tensor = model(ids).logits
        return logits[:, -tokens.shape[1] :, self.label]

    def keep_first(self) -> None:
        """Drop all seeds but the first."""
        self.models = self.models[:1]


Policy = Transformer | LanguageModel


def make_policy(options: Options) -> Policy:
    """The policies at their start."""
    policy = (
        LanguageModel(options.model, options.seeds) if options.model
        else Transformer(range(options.seeds), options.width, options.layers)
    )
    return policy.to(options.device)


def log_probabilities(policy: Policy, tokens: Tensor, mask: Tensor) -> Tensor:
    """Of each token of each reply, float32 of shape [seeds, batch, slots]."""
    started = functional.pad(tokens[..., :-1], (1, 0))
    logits: Tensor = policy(started).masked_fill(~mask, -math.inf)
    return logits.log_softmax(-1).gather(-1, tokens[..., None])[..., 0]


@torch.no_grad()
def sample(policy: Policy, batch: int, mask: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """Replies, int64 of shape [seeds, batch, slots]: each token the largest of its logits plus Gumbel noise."""
    tokens = torch.zeros(len(generators), batch, 1, dtype=torch.int64, device=mask.device)
    for allowed_here in mask:
        logits = policy(tokens)[:, :, -1].masked_fill(~allowed_here, -math.inf)
        uniform = torch.stack([torch.rand(logits.shape[1:], generator=generator) for generator in generators]).to(logits)
        noise = -(-uniform.clamp(min=1e-20).log()).log()
        tokens = torch.cat([tokens, (logits + noise).argmax(-1, keepdim=True)], -1)
    return tokens[..., 1:]


# --- GRPO.


class Step(NamedTuple):
    """What a step proposed and earned."""

    number: int
    records: list[list[Evaluation]]
    """By seed and place; a group is `group_size` places in a row."""
    rewards: Tensor
    """Float32 of shape [seeds, batch]; NaN on a fault, which teaches nothing."""


def advantages(rewards: Tensor, group_size: int) -> Tensor:
    """``(reward - mean) / standard deviation`` within each group; 0 where all are equal, and where there is no reward."""
    groups = rewards.reshape(*rewards.shape[:-1], -1, group_size)
    centred = groups - groups.nanmean(-1, keepdim=True)
    spread = centred.square().nanmean(-1, keepdim=True).sqrt()
    return (centred / (spread + 1e-4)).nan_to_num(0.0).reshape(rewards.shape)


def train(policy: Policy, judge: Judge, preset: Preset, options: Options) -> Iterator[Step]:
    """Improve a policy in place, a step at a time."""
    mask = allowed(options.free).to(options.device)
    generators = [torch.Generator().manual_seed(1000 + seed) for seed in range(options.seeds)]
    rate = options.learning_rate or (1e-5 if options.model else 1e-3)
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    start = copy.deepcopy(policy).requires_grad_(False)
    for number in range(options.steps):
        tokens = sample(policy, options.groups * options.group_size, mask, generators)
        records = judge(spell(tokens), number)
        totals = [[preset.score(record).total for record in batch] for batch in records]
        rewards = torch.tensor([[math.nan if total is None else total for total in batch] for batch in totals])
        gains = advantages(rewards, options.group_size)[..., None].to(options.device)
        with torch.no_grad():
            old, reference = log_probabilities(policy, tokens, mask), log_probabilities(start, tokens, mask)
        for _ in range(options.epochs):
            now = log_probabilities(policy, tokens, mask)
            ratio, drift = (now - old).exp(), reference - now
            gain = torch.minimum(ratio * gains, ratio.clamp(1 - options.clip, 1 + options.clip) * gains)
            divergence = drift.exp() - drift - 1  # an unbiased estimate that is never negative (Schulman 2020)
            loss = (options.kl * divergence - gain).mean((1, 2)).sum()  # seeds share no weight, so their sum trains each one alone
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        yield Step(number, records, rewards)


# --- Judges.

MALFORMED = "a token stands in a slot of another"


def replay(log: dict[grammar.Program, Evaluation]) -> Judge:
    """Looks a program's record up. Tokens that spell no program get a record as a reply without code does."""
    some = next(iter(log.values()))
    none = Evaluation(
        id="malformed", created=some.created, task=some.task, task_version=some.task_version, device=some.device, effort=some.effort,
        seed=0, outcome=Outcome.REJECTED, reason=MALFORMED, decided_by="entry",
    )
    return lambda batch, _: [[none if program is None else log[program] for program in programs] for programs in batch]


def live(evaluator: Evaluator) -> Judge:
    """Judges every program of a batch for real; what a batch repeats is judged once."""
    async def judge(items: list[Item]) -> list[Evaluation]:
        answers = [answer async for answer in evaluator.evaluate_many(items)]
        return [answer.evaluation for answer in sorted(answers, key=lambda answer: answer.index)]

    def judge_batch(batch: Batch, step: int) -> list[list[Evaluation]]:
        return [asyncio.run(judge([_item(program, step) for program in programs])) for programs in batch]

    return judge_batch


def _item(program: grammar.Program | None, step: int) -> Item:
    text, name = (MALFORMED, "") if program is None else (grammar.reply(program), grammar.name_of(program))
    return Item(task=grammar.TASK, text=text, context=Context(run="grpo, live", episode=name, policy_step=step))


# --- What is printed and written.

SHOWN = (Outcome.ACCEPTED, Outcome.SILENT_ERROR, Outcome.STACK_CONFLICT, Outcome.TAMPERED)


def interval(values: np.ndarray, statistic: Callable[..., Any] = np.mean, resamples: int = 4000) -> tuple[float, float]:
    """The 95 % bootstrap interval of a statistic over seeds, values of shape [seeds]."""
    drawn = np.random.default_rng(0).choice(values, (resamples, len(values)))
    low, high = np.quantile(statistic(drawn, axis=1), (0.025, 0.975))
    return float(low), float(high)


def shares(records: Sequence[Sequence[Evaluation]]) -> dict[Outcome, float]:
    """The share of each outcome, the largest first."""
    counts = Counter(record.outcome for batch in records for record in batch)
    return {outcome: count / counts.total() for outcome, count in counts.most_common()}


def show(step: Step) -> str:
    """A line of the learning curve."""
    means, found = step.rewards.nanmean(1), shares(step.records)
    worth = "".join(f"{found.get(outcome, 0):9.0%}" for outcome in SHOWN)
    return f"{step.number:5d}{means.mean():9.3f}{means.min():9.3f}{means.max():9.3f}{worth}"


def speedup(record: Evaluation) -> str:
    """A speedup with its interval."""
    found = record.speedup
    return f"{found.estimate:.2f} ({found.low:.2f} to {found.high:.2f})" if found else "not measured"


def best(records: Sequence[Evaluation]) -> Evaluation | None:
    """The accepted kernel whose speedup is the largest for certain."""
    right = [record for record in records if record.outcome is Outcome.ACCEPTED and record.speedup]
    return max(right, key=lambda record: record.speedup.low if record.speedup else 0.0, default=None)


def name(record: Evaluation) -> str:
    """The program of a record."""
    return record.context.episode or record.reason


def summarise(steps: Sequence[Step], log: dict[grammar.Program, Evaluation]) -> None:
    """Start and end over seeds, and what was found."""
    last = steps[-max(1, len(steps) // 15) :]
    start = steps[0].rewards.nanmean(1).numpy()
    end = torch.cat([step.rewards for step in last], 1).nanmean(1).numpy()
    print(f"\nmean reward: {start.mean():.3f} in the first step, {end.mean():.3f} in the last {len(last)}")
    certain = "{:.3f} to {:.3f}".format(*interval(end - start)) if len(start) > 1 else "unknown"
    print(f"gained {np.mean(end - start):.3f}, 95 % interval over {len(start)} seeds: {certain}")
    ending = [record for step in last for batch in step.records for record in batch]
    print("proposed at the end: " + ", ".join(f"{outcome} {share:.0%}" for outcome, share in shares([ending]).items()))
    favourite = Counter(name(record) for record in ending).most_common(1)[0]
    print(f"most often: {favourite[0]} ({favourite[1] / len(ending):.0%})")
    found, seed = best([record for step in steps for batch in step.records for record in batch]), log[grammar.SEED]
    print(f"the seed: {grammar.name_of(grammar.SEED)}: {seed.outcome}, speedup {speedup(seed)}")
    if found:
        print(f"the best kernel proposed: {name(found)}: speedup {speedup(found)}")


def proposals(step: Step, run: str, preset: str, group_size: int) -> Iterator[Evaluation]:
    """The records of a step with the ids by which `fastkernels-env report` and `ablate` group them, and with what was paid."""
    for seed, (batch, rewards) in enumerate(zip(step.records, step.rewards.tolist(), strict=True)):
        for place, (record, reward) in enumerate(zip(batch, rewards, strict=True)):
            group = f"{seed}.{step.number}.{place // group_size}"
            context = Context(run=f"{run}, seed {seed}", group=group, policy_step=step.number, episode=record.context.episode)
            paid = Reward(preset=preset, total=None if math.isnan(reward) else reward)
            yield msgspec.structs.replace(record, id=f"{run}.{group}.{place}", context=context, rewards={preset: paid})


def write_log(path: str, steps: Sequence[Step], preset: str, group_size: int) -> None:
    """What some steps proposed, as a log."""
    with open_log(path, "wb") as file:
        for step in steps:
            file.writelines(map(encode_record, proposals(step, f"grpo, {preset}", preset, group_size)))


def write_plot(path: str, steps: Sequence[Step], options: Options) -> None:
    """The learning curve as SVG: the mean over seeds, and the range of seeds."""
    from fastkernels_env.pages.figures import Curve, lines

    means = torch.stack([step.rewards.nanmean(1) for step in steps])
    curve = Curve(options.reward, range(len(steps)), means.mean(1).tolist(), means.amin(1).tolist(), means.amax(1).tolist())
    title = f"GRPO by replay: mean reward, {options.seeds} seeds (band: lowest to highest)"
    Path(path).write_text(lines([curve], title=title, x_label="step", y_label=f"reward: {options.reward}"))


def run_live(policy: Policy, preset: Preset, options: Options) -> None:
    """Some steps that are really judged, of the first seed."""
    few = dataclasses.replace(options, seeds=1, groups=1, group_size=options.live_group, steps=options.live)
    print(f"\nlive: {few.steps} steps of {few.group_size} replies, judged on this CPU (effort {few.effort})")
    policy.keep_first()
    with Evaluator("cpu", effort=few.effort) as evaluator:
        for step in train(policy, live(evaluator), preset, few):
            for record, reward in zip(step.records[0], step.rewards[0].tolist(), strict=True):
                print(f"{step.number:5d}{reward:9.3f}  {name(record)}: {record.outcome}, speedup {speedup(record)}", flush=True)


def parse(arguments: Sequence[str] | None = None) -> Options:
    """The options of a command line."""
    parser = argparse.ArgumentParser(description="GRPO over a small language model that writes kernels as the tokens of a grammar.")
    for field in dataclasses.fields(Options):
        kind: dict[str, Any] = {"action": "store_true"} if field.type == "bool" else {"type": type(field.default), "default": field.default}
        parser.add_argument("--" + field.name.replace("_", "-"), **kind)
    options = Options(**vars(parser.parse_args(arguments)))
    if options.free and options.model:
        parser.error("--free needs the small transformer: the same letter stands for an option of every slot")
    return options


def load(path: Path) -> dict[grammar.Program, Evaluation]:
    """A judged log that holds every program of the grammar."""
    log = grammar.load(path)
    if missing := len(grammar.programs()) - len(log):
        raise Problem(f"{path}: expected a record of every program of the grammar, {missing} are missing; judge them: examples/grammar.py")
    return log


def run(options: Options) -> None:
    """Train, print and write."""
    if not options.model:
        torch.set_num_threads(1)  # its tensors are too small for several
    preset, log = load_preset(options.reward), load(Path(options.log))
    policy, steps = make_policy(options), []
    print(f"replay of {len(log)} judged programs, reward {preset.name}, {options.seeds} seeds\n")
    print(" step     mean   lowest  highest accepted   silent conflict   cheats")
    for step in train(policy, replay(log), preset, options):
        steps.append(step)
        if step.number % max(1, options.steps // 15) == 0 or step.number == options.steps - 1:
            print(show(step), flush=True)
    if steps:
        summarise(steps, log)
    if options.out:
        write_log(options.out, steps[:: options.out_every], preset.name, options.group_size)
    if options.plot and steps:
        write_plot(options.plot, steps, options)
    if options.live:
        run_live(policy, preset, options)


def main() -> None:
    try:
        run(parse())
    except (Problem, PresetError, LogError) as error:
        print(f"train_grpo: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
