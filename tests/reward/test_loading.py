"""Presets from files: what is accepted, and what each mistake is told."""

import math
import pickle
import re
import runpy
import sys
from pathlib import Path

import pytest

from fastkernels_env import reward
from fastkernels_env.types import Outcome, Speedup

strategies = runpy.run_path(str(Path(__file__).parent / "strategies.py"))
bare, check = strategies["bare"], strategies["check"]
SHIPPED = (Path(reward.__file__).parent / "presets" / "production.toml").read_text("utf-8")
MINIMAL = 'summary = "s"\nbounds = [0, 1]\n[parts.right]\nterm = "workloads_right"\n'
TIMED = 'summary = "s"\nbounds = [0, 1]\n[parts.fast]\nterm = "faster_than"\n'
CREDITED = MINIMAL + "[credit]\n"
PRICED = 'summary = "s"\nbounds = [0, 1]\n[parts.price]\nterm = "failed_checks"\n'


@pytest.fixture
def write(tmp_path):
    def write(text):
        path = tmp_path / "mine.toml"
        path.write_text(text)
        return path

    return write


def test_every_shipped_preset_loads():
    assert "production" in reward.preset_names()
    for name in reward.preset_names():
        assert reward.load_preset(name).name == name
        assert reward.load_preset(name).summary


def test_a_file_by_path_and_by_text(write):
    path = write(MINIMAL)
    assert reward.load_preset(path) == reward.load_preset(str(path))
    assert reward.load_preset(path).score(bare(Outcome.WRONG, workloads_right=0.25)).parts == {"right": 0.25}


def test_a_gate_pays_only_in_its_grades(write):
    preset = reward.load_preset(write(MINIMAL + 'weight = 0.5\ngate = ["wrong", "parity"]\n'))
    totals = {outcome: preset.score(bare(outcome, workloads_right=1.0)).total for outcome in Outcome}
    assert totals.pop(Outcome.FAULT) is None
    assert {outcome for outcome, total in totals.items() if total == 0.5} == {Outcome.WRONG, Outcome.ACCEPTED}
    assert set(totals.values()) == {0.0, 0.5}


def test_failed_checks_cost_their_prices(write):
    preset = reward.load_preset(write(PRICED.replace("[0, 1]", "[-1, 0]") + "prices = { canaries = 0.6, poison = 0.3 }\nweight = -0.5\n"))
    for failed, paid in (((), 0), (("poison",), -0.15), (("poison", "aliasing"), -0.15), (("poison", "canaries"), -0.45)):
        checks = [check(name, "verify", "failed") for name in failed] + [check("canaries", "verify", "not_run")]
        assert preset.score(bare(Outcome.SILENT_ERROR, checks=checks)).total == pytest.approx(paid)
    assert pickle.loads(pickle.dumps(preset)) == preset


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("summary = ", "mine.toml: is not TOML"),
        ('bounds = [0, 1]\nparts = {}', "missing required field `summary`"),
        ('typo = 1\n' + MINIMAL, "mine.toml: top level: Object contains unknown field `typo`; known keys are: summary"),
        (MINIMAL + "wieght = 1\n", "mine.toml: parts.right: Object contains unknown field `wieght`; known keys are: term, weight"),
        (MINIMAL.replace("[0, 1]", "[1, 0]"), "mine.toml: bounds: expected"),
        (MINIMAL.replace("[0, 1]", "[nan, 1]"), "mine.toml: bounds: expected"),
        (MINIMAL.replace("[0, 1]", "[0, inf]"), "mine.toml: bounds: expected"),
        (MINIMAL.replace("[0, 1]", "[0]"), "mine.toml: bounds: Expected `array` of length 2"),
        (MINIMAL.replace("[0, 1]", "[0, true]"), "mine.toml: bounds[1]: Expected `float`, got `bool`"),
        ('summary = "s"\nbounds = [0, 1]\nparts = {}', "mine.toml: parts: expected at least one"),
        (MINIMAL.replace("parts.right", "parts.total"), "mine.toml: parts.total: a part's name"),
        (MINIMAL.replace("parts.right", "parts.'a/b'"), "mine.toml: parts.a/b: a part's name"),
        (MINIMAL.replace("workloads_right", "workload"), "mine.toml: parts.right.term: unknown term 'workload'; known are: "),
        (MINIMAL + "weight = nan", "mine.toml: parts.right.weight: expected a number"),
        (MINIMAL + "weight = inf", "mine.toml: parts.right.weight: expected a number"),
        (MINIMAL + "weight = true", "mine.toml: parts.right.weight: expected a number"),
        (MINIMAL + "weight = 1e9", "mine.toml: parts.right.weight: expected a number"),
        (MINIMAL + 'weight = "1"', "mine.toml: parts.right.weight: expected a number"),
        (MINIMAL + "weight = { wrong = nan }", "mine.toml: parts.right.weight.wrong: expected a number"),
        (MINIMAL + "weight = { accepted = 1 }", "mine.toml: parts.right.weight: unknown grade 'accepted'"),
        (MINIMAL + 'gate = ["fault"]', "mine.toml: parts.right.gate: unknown grade 'fault'"),
        (MINIMAL + 'weight = { wrong = 1 }\ngate = ["wrong"]', "mine.toml: parts.right.gate: a table of weights is a gate already"),
        (MINIMAL + "clip = [0.5, nan]", "mine.toml: parts.right.clip: expected [low, high]"),
        (MINIMAL + "clip = [0.5, 0.4]", "mine.toml: parts.right.clip: expected [low, high]"),
        (MINIMAL + "clip = [0.0, 2.0]", "mine.toml: parts.right.clip: expected [low, high]"),
        (MINIMAL + "weight = 1.5", "mine.toml: parts: 'tampered' earns 0 to 1.5, outside the bounds [0.0, 1.0]"),
        (MINIMAL + "prices = { canaries = 0.5 }", "mine.toml: parts.right: Object contains unknown field `prices`; known keys are: term"),
        (PRICED, "mine.toml: parts.price.prices: expected a table of check names and prices, such as {canaries = 0.5}, got None"),
        (PRICED + "prices = { canary = 0.5 }", "mine.toml: parts.price.prices: unknown check 'canary'; known are: contract"),
        (PRICED + "prices = { canaries = 1.5 }", "mine.toml: parts.price.prices.canaries: expected a price between 0 and 1, got 1.5"),
        (PRICED + "prices = { canaries = true }", "mine.toml: parts.price.prices.canaries: expected a price between 0 and 1, got True"),
        (PRICED + "prices = { canaries = 0.6, poison = 0.6 }\nweight = -1", "mine.toml: parts: 'tampered' earns -1 to 0, outside"),
        (PRICED + "prices = { canaries = nan }", "mine.toml: parts.price.prices.canaries: expected a finite number, got nan"),
        (TIMED, "parts.fast: Object missing required field `baselines`; known keys are: term, weight, gate, clip, baselines, saved"),
        (TIMED + 'baselines = "eager"', "mine.toml: parts.fast.baselines: Expected `array`, got `str`"),
        (TIMED + "baselines = []", "mine.toml: parts.fast.baselines: Expected `array` of length >= 1"),
        (TIMED + "baselines = ['eager', 1]", "mine.toml: parts.fast.baselines[1]: Expected `str`, got `int`"),
        (TIMED + "baselines = ['eager', inf]", "mine.toml: parts.fast.baselines[1]: expected a finite number, got inf"),
        (TIMED + "baselines = ['eager']\nsaved = 1.0", "mine.toml: parts.fast.saved: Expected `float` < 1.0"),
        (TIMED + "baselines = ['eager']\nsaved = nan", "mine.toml: parts.fast.saved: expected a finite number, got nan"),
        (TIMED + "baselines = ['eager']\nsaved = true", "mine.toml: parts.fast.saved: Expected `float`, got `bool`"),
        (TIMED + "baselines = ['eager']\nsafed = 0.1", "mine.toml: parts.fast: Object contains unknown field `safed`"),
        ('summary = "s"\nbounds = [0, 1]\nparts.right = 1', "mine.toml: parts.right: expected a table with the key term, got 1"),
        ('summary = "s"\nbounds = [0, 1]\nparts = 1', "mine.toml: parts: Expected `object`, got `int`"),
        (CREDITED + "kind = 'half'", "mine.toml: credit: kind: unknown kind 'half'; known are: raw, improvement, discounted, potential"),
        (CREDITED + "kind = 'discounted'\ngama = 0.4", "mine.toml: credit: Object contains unknown field `gama`; known keys are: kind"),
        (CREDITED + "kind = 'discounted'\ngamma = 1.1", "mine.toml: credit: gamma: expected a discount between 0 and 1, got 1.1"),
        (CREDITED + "kind = 'discounted'\ngamma = nan", "mine.toml: credit: gamma: expected a discount between 0 and 1, got nan"),
        (CREDITED + "kind = 'discounted'\ngamma = true", "mine.toml: credit.gamma: Expected `float`, got `bool`"),
        (CREDITED + "kind = 'raw'\ngamma = 0.4", "mine.toml: credit: gamma: 'raw' discounts nothing; drop gamma or choose another kind"),
        ("credit = 'raw'\n" + MINIMAL, "mine.toml: credit: Expected `object`, got `str`; known keys are: kind, gamma"),
        (MINIMAL.replace("workloads_right", "speed"), "mine.toml: parts: 'tampered' earns -inf to inf, outside the bounds"),
        ('order = "alphabetical"\n' + MINIMAL, "mine.toml: order: unknown order 'alphabetical'; known are: production"),
        ('modules = ["no_such_module_here"]\n' + MINIMAL, "mine.toml: modules: 'no_such_module_here' cannot be imported"),
    ],
)
def test_mistakes(write, text, says):
    with pytest.raises(reward.PresetError, match=re.escape(says)):
        reward.load_preset(write(text))


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("wrong = -0.15", "wrong = -0.25", "'wrong' must rank no lower than 'crashed' and 'timed_out'"),
        ("silent_error = -0.75", "silent_error = 0.0", "'silent_error' earns|'rejected' must rank above 'silent_error'"),
        ("stack_conflict = 0.26\n", "stack_conflict = 0.16\n", "'stack_conflict' must rank above 'wrong'"),
        ("parity = 0.95", "parity = 0.9", "'parity' must rank above 'slower'"),
        ("faster = 1.05", "faster = 1.0", "'faster' must rank above 'parity'"),
        ("tampered = -1.0", "tampered = -0.95", "'tampered' must always earn exactly the lower bound -1"),
        ("clip = [-2.0, 2.0]", "clip = [-9.0, 2.0]", "'slower' earns|'slower' must rank no lower than 'unmeasured'"),
        ("crashed = 0.05", "crashed = 0.04", "parts.correctness.weight: 'crashed' and 'timed_out' share one band"),
        ("timed_out = -0.3", "timed_out = -0.31", "parts.outcome.weight: 'crashed' and 'timed_out' share one band"),
        ("faster = 0.45", "faster = 0.5", "'faster' earns 1.05 to 2.1, outside the bounds"),
    ],
)
def test_a_broken_order_is_refused(write, old, new, says):
    assert old in SHIPPED
    with pytest.raises(reward.PresetError, match=says):
        reward.load_preset(write(SHIPPED.replace(old, new, 1)))


def test_no_such_preset(tmp_path):
    with pytest.raises(reward.PresetError, match=r"unknown preset 'prodction'; known are: .*production"):
        reward.load_preset("prodction")
    with pytest.raises(reward.PresetError, match=r"none\.toml: cannot be read: No such file"):
        reward.load_preset(tmp_path / "none.toml")


MODULE = '''
from fastkernels_env.reward import term

@term
def own_kernels_of_a_test(evaluation):
    return evaluation.own_kernel_share or 0.0
'''


def test_a_term_of_ones_own(write, tmp_path, monkeypatch):
    (tmp_path / "terms_of_a_test.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    try:
        text = 'modules = ["terms_of_a_test"]\n' + MINIMAL.replace("workloads_right", "own_kernels_of_a_test")
        preset = reward.load_preset(write(text))
    finally:
        sys.modules.pop("terms_of_a_test", None)
    assert preset.score(bare(Outcome.ACCEPTED, own_kernel_share=0.75)).total == 0.75
    assert preset.score(bare(Outcome.ACCEPTED)).total == 0.0


def test_terms_are_clipped_and_checked(write):
    @reward.term(low=0.0, high=0.5)
    def generous(evaluation):
        return evaluation.workloads_right

    preset = reward.load_preset(write(MINIMAL.replace("workloads_right", "generous")))
    assert preset.score(bare(Outcome.WRONG, workloads_right=9.0)).total == 0.5
    for nonsense in (math.nan, "much", None):
        with pytest.raises(reward.TermError, match=r"mine\.toml: parts\.right: term 'generous' returned .* for evaluation 'e1'"):
            preset.score(bare(Outcome.WRONG, workloads_right=nonsense))


PARAMETERS = '''
from typing import Annotated
import msgspec
from fastkernels_env.reward import term

@term
def short_of_a_test(evaluation, *, most: Annotated[int, msgspec.Meta(gt=0)] = 10, discount: dict[str, float] = {}):
    return discount.get(evaluation.task, 1.0) * (len(evaluation.code) <= most)
'''


def test_a_term_with_parameters(write, tmp_path, monkeypatch):
    (tmp_path / "parameters_of_a_test.py").write_text(PARAMETERS)
    monkeypatch.syspath_prepend(tmp_path)
    text = 'modules = ["parameters_of_a_test"]\n' + MINIMAL.replace("workloads_right", "short_of_a_test")
    preset = reward.load_preset(write(text + "most = 3\ndiscount = { rms_norm = 0.5 }"))
    assert preset.score(bare(Outcome.WRONG, code="abc")).total == 0.5
    assert preset.score(bare(Outcome.WRONG, code="abcd")).total == 0.0
    assert hash(preset) == hash(pickle.loads(pickle.dumps(preset)))
    assert reward.load_preset(write(text)).score(bare(Outcome.WRONG, code="abcd")).total == 1.0
    with pytest.raises(reward.PresetError, match=re.escape("mine.toml: parts.right.most: Expected `int` >= 1")):
        reward.load_preset(write(text + "most = 0"))


def test_parameters_that_a_preset_could_not_give():
    for function in (lambda evaluation, most: 0.0, lambda evaluation, *, most: 0.0, lambda evaluation, **rest: 0.0):
        with pytest.raises(ValueError, match=r"term '<lambda>': expected parameter '(most|rest)' to be keyword-only, annotated, and not"):
            reward.term(function)
    with pytest.raises(ValueError, match="expected parameter 'weight' to be"):
        @reward.term
        def heavy(evaluation, *, weight: float):
            return weight


def test_totals_that_have_no_bounds_are_refused(write):
    @reward.term(low=-1.7e308, high=1.7e308)
    def huge(evaluation):
        return 1.0

    text = MINIMAL.replace("workloads_right", "huge")
    with pytest.raises(reward.PresetError, match=r"mine\.toml: parts: 'tampered' earns nan to nan, outside the bounds"):
        reward.load_preset(write(text + "[parts.more]\nterm = 'huge'\n"))


def test_a_term_cannot_take_anothers_name():
    with pytest.raises(ValueError, match="there is a term 'speed' already"):
        @reward.term
        def speed(evaluation):
            return 0.0


def test_a_term_needs_a_range():
    for low, high in ((1.0, 0.0), (math.inf, math.inf), (-math.inf, -math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="expected a range with low <= high"):
            @reward.term(low=low, high=high)
            def backwards(evaluation):
                return 0.0


@pytest.mark.parametrize(
    ("low", "high", "value"),
    [(2.0, 4.0, math.log(2)), (0.25, 0.5, -math.log(2)), (0.5, 1.0, 0.0), (1.0, 3.0, 0.0), (2.0, 0.5, 0.0), (math.nan, 2.0, 0.0)],
)
def test_speed(low, high, value):
    speedup = Speedup(estimate=1.0, low=low, high=high, worst=1.0, worst_workload="")
    assert reward.terms.speed(bare(Outcome.ACCEPTED, speedup=speedup)) == pytest.approx(value)
