"""Records to rewards: score a log again under another preset, and compare presets on it. Needs no device and does not import torch.

`rescore` gives records the reward of another preset; `ablate` says what several presets pay for and where they disagree.
"""

from .ablation import Ablation, Correlation, CurvePoint, GradeReward, Verdict, ablate
from .groups import Group, GroupKey, GroupSummary, Lead
from .rescoring import OutcomeReward, Rescored, rescore
from .samples import Price, Sample, ScoringError
from .statistics import Moments, kendall, spearman

__all__ = [
    "Ablation",
    "Correlation",
    "CurvePoint",
    "GradeReward",
    "Group",
    "GroupKey",
    "GroupSummary",
    "Lead",
    "Moments",
    "OutcomeReward",
    "Price",
    "Rescored",
    "Sample",
    "ScoringError",
    "Verdict",
    "ablate",
    "kendall",
    "rescore",
    "spearman",
]
