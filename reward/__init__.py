"""Rewards: pure functions of an evaluation's record.

`load_preset` reads a preset (a TOML file of terms, weights and gates) by name or path, and `Preset.score` turns an `Evaluation`
into a `Reward`. `term` registers a function of your own for use in a preset. `turn_rewards` shares the scores of an episode's turns out.
"""

from . import naive, terms
from .credit import Credit, turn_rewards
from .grade import Grade, grade_of
from .loading import load_preset, preset_names
from .preset import Part, Preset, PresetError, TermError
from .registry import Term, term, term_names

__all__ = [
    "Credit",
    "Grade",
    "Part",
    "Preset",
    "PresetError",
    "Term",
    "TermError",
    "grade_of",
    "load_preset",
    "naive",
    "preset_names",
    "term",
    "term_names",
    "terms",
    "turn_rewards",
]
