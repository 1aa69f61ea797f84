"""Groups: the replies that a trainer compares with each other, and what a preset says about which of them is best."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Sequence

import msgspec

from ..types import Outcome
from .samples import UNSOUND, Sample
from .statistics import moments


class GroupKey(msgspec.Struct, frozen=True, order=True):
    """What the replies of a group share. `name` is ``context.group``, or the prompt's hash where no group was recorded."""

    task: str
    run: str
    policy_step: int
    name: str
    turn: int


class Lead(enum.StrEnum):
    """How sure it is that the best reply of a group is the best."""

    FLAT = "flat"
    """All replies are paid the same: zero variance, nothing to learn."""
    TIED = "tied"
    """Several replies share the highest reward."""
    LOTTERY = "lottery"
    """One reply leads, but with its kernel as slow as its interval allows, and a rival's as fast, it need not."""
    DECIDED = "decided"
    """One reply leads whatever the intervals allow."""


class Group(msgspec.Struct, frozen=True, kw_only=True):
    """A group of two replies or more under one preset."""

    key: GroupKey
    preset: str
    size: int
    mean: float
    spread: float
    lead: Lead
    best: str
    """Id of the best reply, the first of those that share the highest reward."""
    best_outcome: Outcome
    flip: float
    """Chance that the best reply, drawn among those with the highest reward, is not among the reference preset's best."""
    misled: float | None
    """Chance that the best reply is unsound, where the group holds an accepted one and an unsound one; else None."""


class GroupSummary(msgspec.Struct, frozen=True, kw_only=True):
    """All groups under one preset. Shares and chances are None where there is no group to take them from."""

    preset: str
    groups: int
    flat: float | None
    tied: float | None
    lottery: float | None
    decided: float | None
    """Shares of the groups by `Lead`; they sum to 1."""
    flip: float | None
    """Mean of `Group.flip`."""
    contested: int
    """Groups that hold an accepted reply and an unsound one."""
    misled: float | None
    """Mean of `Group.misled` over them."""


def group_key(sample: Sample) -> GroupKey:
    """The group that a sample belongs to."""
    context = sample.context
    return GroupKey(sample.task, context.run, context.policy_step, context.group or sample.prompt_hash, context.turn)


def gather(samples: Iterable[Sample]) -> dict[GroupKey, list[Sample]]:
    """Samples by group, without faults, sorted by key; groups of one reply are left out."""
    groups: dict[GroupKey, list[Sample]] = {}
    for sample in samples:
        if sample.grade is not None:
            groups.setdefault(group_key(sample), []).append(sample)
    return {key: groups[key] for key in sorted(groups) if len(groups[key]) > 1}


def judge_group(key: GroupKey, members: Sequence[Sample], preset: str, reference: str) -> Group:
    """What a preset says about a group, compared with what the reference preset says."""
    totals = [member.prices[preset].total for member in members]
    found, top = moments(totals), _best(members, preset)
    flip = len(set(top) - set(_best(members, reference))) / len(top)
    unsound = [member.outcome in UNSOUND for member in members]
    contested = any(unsound) and any(member.outcome is Outcome.ACCEPTED for member in members)
    assert found.mean is not None
    assert found.spread is not None
    return Group(
        key=key, preset=preset, size=len(members), mean=found.mean, spread=found.spread, lead=_lead(members, preset, top),
        best=members[top[0]].id, best_outcome=members[top[0]].outcome, flip=flip,
        misled=sum(unsound[index] for index in top) / len(top) if contested else None,
    )


def summarize(preset: str, groups: Sequence[Group]) -> GroupSummary:
    """The summary of a preset's groups."""
    shares = {lead.value: _mean([float(group.lead is lead) for group in groups]) for lead in Lead}
    misled = [group.misled for group in groups if group.misled is not None]
    return GroupSummary(
        preset=preset, groups=len(groups), **shares, flip=_mean([group.flip for group in groups]), contested=len(misled),
        misled=_mean(misled),
    )


def _best(members: Sequence[Sample], preset: str) -> list[int]:
    """Places of the replies with the highest reward."""
    highest = max(member.prices[preset].total for member in members)
    return [index for index, member in enumerate(members) if member.prices[preset].total == highest]


def _lead(members: Sequence[Sample], preset: str, top: Sequence[int]) -> Lead:
    if len(top) == len(members):
        return Lead.FLAT
    if len(top) > 1:
        return Lead.TIED
    rivals = (member.prices[preset].high for index, member in enumerate(members) if index != top[0])
    return Lead.DECIDED if members[top[0]].prices[preset].low > max(rivals) else Lead.LOTTERY


def _mean(values: Sequence[float]) -> float | None:
    return moments(values).mean
