"""The engine of a stage, from params.yaml and the command line."""

from __future__ import annotations

import sys

import pytest

from ecmf_pipeline.core.errors import InputError
from ecmf_pipeline.runner.config import EngineConfig
from ecmf_pipeline.runner.ray_engine import RayEngine
from ecmf_pipeline.settings.params import Params
from ecmf_pipeline.stages.shared.engines import choose_engine
from ecmf_pipeline.stages.shared.llm import llm_engine

LOCAL, RAY = EngineConfig(), EngineConfig(kind="ray")


def choose(config, kind, workers=None):
    return choose_engine(config, kind, workers, clip_timeout=1.0, device="cpu")


@pytest.mark.parametrize(("config", "kind"), [(LOCAL, None), (LOCAL, "local"), (RAY, "local")])
def test_the_local_engine_is_that_of_the_stage(config, kind, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    assert choose(config, kind, 0) is None


@pytest.mark.parametrize(("config", "kind"), [(RAY, None), (LOCAL, "ray")])
def test_ray_is_chosen_by_params_or_the_command_line(config, kind, monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert isinstance(choose(config, kind), RayEngine)
    with pytest.raises(InputError):
        choose(config, kind, 0)
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError) as caught:
        choose(config, kind)
    assert caught.value.command == 'pip install "ecmf-pipeline[ray]"'


def test_requests_to_a_server_need_no_engine(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    params = Params(engine=RAY)
    assert isinstance(llm_engine(params, None, None), RayEngine)
    server = params.llm.model_copy(update={"backend": "openai"})
    assert llm_engine(params.model_copy(update={"llm": server}), None, None) is None
