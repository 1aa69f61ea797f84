"""Tables by model type: settings that are left open, inputs in a form of their own, experts that are noted as one call."""

import importlib.util

import pytest
import torch

from fastkernels_env.coverage.durations import FRAMES, even
from fastkernels_env.coverage.forms import FORMS, given
from fastkernels_env.coverage.routing import hit_by, routed
from fastkernels_env.coverage.settings import SETTINGS
from fastkernels_env.coverage.tracing import Tracer
from fastkernels_env.coverage.values import value_of

installed = pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
STEPS = {"prefill", "decode", "encode", "batch", "image", "audio"}


@installed
def test_every_type_in_the_tables_is_one_that_transformers_knows():
    from transformers import CONFIG_MAPPING

    assert not {*SETTINGS, *FORMS} - set(CONFIG_MAPPING)
    assert all(STEPS.issuperset(steps) for steps in FORMS.values())


def test_a_form_is_made_for_the_batch_and_is_there_for_its_step_alone():
    class Config:
        model_type = "superglue"

    assert given(Config(), "batch", 4, 512)["pixel_values"].shape == (4, 2, 3, 480, 640)
    assert given(Config(), "image", 4, 512) is None


def test_experts_that_rows_do_not_reach_are_not_read():
    assert hit_by(1, 64) == pytest.approx(1)
    assert hit_by(1e6, 64) == pytest.approx(64)

    class DbrxExperts(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.num_experts = 8
            self.w1 = torch.nn.Parameter(torch.empty(8 * 32, 16, device="meta"))

        def forward(self, hidden_states, top_k_index, top_k_weights):
            raise AssertionError("it is noted, not run")

    experts, tracer = DbrxExperts(), Tracer()
    rows, chosen = torch.empty(4, 16, device="meta"), torch.empty(4, 2, dtype=torch.int64, device="meta")
    with routed(experts, tracer), tracer.watching(experts):
        tracer.start()
        assert experts(rows, chosen, chosen).shape == rows.shape
        [call] = tracer.stop()
    assert call.op == "experts"
    assert call.flops == 2 * 8 * 32 * 16
    assert call.facts == {"rows": 4, "hit": round(hit_by(8, 8))}


def test_sounds_last_equally_long():
    class VitsDurationPredictor(torch.nn.Module):
        def forward(self, hidden_states):
            return hidden_states * 2

    predictor = VitsDurationPredictor()
    with even(predictor):
        logarithms = predictor(torch.empty(2, 3, device="meta"))
    assert torch.ceil(torch.exp(value_of(logarithms))).unique().tolist() == [FRAMES]
    assert value_of(predictor(torch.empty(2, 3, device="meta"))) is None


@installed
@pytest.mark.slow
@pytest.mark.parametrize("name", ["switch_transformers", "idefics3", "lightglue", "vits", "pp_ocrv5_server_det"])
def test_an_architecture_with_a_form_or_settings_of_its_own_runs(name):
    from fastkernels_env.coverage.architectures import architectures
    from fastkernels_env.coverage.worker import measure

    [architecture] = [a for a in architectures() if a.name == name]
    measured = measure(architecture)
    assert measured.problem == ""
    assert sum(measured.seconds.values()) > 0
