"""A model with each file of gin/routing/ trains, evaluates and decodes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_run import FEW_LAYERS, FEW_SWITCH_LAYERS, variables

from mtf_switch.config import gin_files
from mtf_switch.model_dirs import train_log

FILES = sorted(path.stem for path in (gin_files.GIN_FOLDER / "routing").glob("*.gin"))


def routing(name):
    """The argument that puts a file on top of the tiny model."""
    return f"--gin_file=routing/{name}.gin"


# exploration_test and routers_test test the layers in the default suite.
@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_a_routing_file_trains_evaluates_and_decodes(tiny, tmp_path, name):
    model_dir = tmp_path / "run"
    outcome = tiny.train(model_dir, routing(name), "--steps=2", params=FEW_LAYERS)
    assert outcome.code == 0, outcome.err
    losses = [step.loss for step in train_log.read(str(model_dir))]
    assert len(losses) == 2
    assert np.all(np.isfinite(losses))

    outcome = tiny.command("eval", f"--model_dir={model_dir}")
    assert outcome.code == 0, outcome.err
    assert "served" in outcome.out
    result = json.loads((model_dir / "eval.json").read_text())
    assert sorted(result["served"]) == sorted(FEW_SWITCH_LAYERS)
    for layer, served in result["served"].items():
        dropped = result["router"][layer]["dropped_fraction"]
        if name == "top_2":
            assert len(served) == 2
        else:
            assert sum(served) == pytest.approx(1 - dropped)

    inputs = tmp_path / "inputs.txt"
    inputs.write_text("ba do ki\nlu me\n")
    outputs = tmp_path / "outputs.txt"
    outcome = tiny.command(
        "predict",
        f"--model_dir={model_dir}",
        f"--input_file={inputs}",
        f"--output_file={outputs}",
    )
    assert outcome.code == 0, outcome.err
    assert len(outputs.read_text().splitlines()) == 2


@pytest.mark.slow
@pytest.mark.parametrize("name", ["top_2", "sample_softmax", "input_dropout"])
def test_a_resumed_run_sees_the_noise_of_an_uninterrupted_one(tiny, tmp_path, name):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    assert tiny.train(whole, routing(name), "--steps=6").code == 0
    for steps in (3, 6):
        outcome = tiny.train(resumed, routing(name), f"--steps={steps}")
        assert outcome.code == 0, outcome.err
    expected = variables(whole, 6)
    for variable, value in variables(resumed, 6).items():
        np.testing.assert_array_equal(value, expected[variable], err_msg=variable)


def test_a_router_that_is_none_is_refused_with_those_there_are(tiny, tmp_path):
    outcome = tiny.train(tmp_path / "run", "--steps=1", params={"SwitchFFN.router": "'top_2'"})
    assert outcome.code != 0
    assert "SwitchFFN.router is 'top_2'" in outcome.err
    assert "@TopKRouter()" in outcome.err
    assert not (tmp_path / "run").exists()


def test_top_2_with_one_expert_is_refused_before_anything_is_written(tiny, tmp_path):
    outcome = tiny.train(
        tmp_path / "run", routing("top_2"), "--steps=1", params={"num_experts": "1"}
    )
    assert outcome.code != 0
    assert "TopKRouter.k is 2, but there are only 1 experts" in outcome.err
    assert not (tmp_path / "run").exists()
