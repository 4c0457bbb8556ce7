"""Settings that change what a model computes, and of which no variable tells."""

from __future__ import annotations

import json
from pathlib import Path

import conversions
import pytest
import random_checkpoints
from random_checkpoints import SWITCH

from mtf_switch.config import gin_config
from mtf_switch.conversion import mesh_settings
from mtf_switch.errors import UserError

LAYERS = "transformer.LayerStack.sublayers"
OTHERS = [
    "transformer.sublayer_rms_norm.epsilon = 0.1",
    "encoder/sublayer_rms_norm.epsilon = 0.1",
    "LayerStack.norm_epsilon = 1e-5",
    "e = 0.1\nsublayer_rms_norm.epsilon = %e",
    "VocabEmbedding.scale_variable_like_classifier_weights = True",
    "GatherEmbedding.scale_variable_like_classifier_weights = True",
    "decoder/Unitransformer.sinusoid_positional_embedding = True",
    "SelfAttention.fold_scaling_into_initializer = False",
    "SwitchRouter.router_dtype = 'bfloat16'",
    "TopKRouter.policy_eval = 'threshold'",
    f"{LAYERS}_per_layer = [@sublayer_call_layer, @sublayer_rms_norm, @sublayer_residual]",
    f"{LAYERS}_final = [@sublayer_dropout]",
    f"{LAYERS}_initial = [@sublayer_rms_norm]",
    "SwitchFFN.router = @MyRouter()",
]


@pytest.mark.parametrize("binding", OTHERS)
def test_a_value_that_the_other_formats_do_not_have_is_refused(binding, tmp_path: Path) -> None:
    path = tmp_path / "config.gin"
    path.write_text(binding)
    with pytest.raises(UserError, match="which changes what the model computes"):
        mesh_settings.check(str(path))


def test_the_models_of_this_project_and_of_t5_have_none_of_them(tmp_path: Path) -> None:
    path = tmp_path / "config.gin"
    gin_config.parse(["models/switch_base_tiny.gin", "runs/embedded.gin"], [])
    path.write_text(gin_config.to_text())
    mesh_settings.check(str(path))
    path.write_text("LayerStack.dropout_rate = 0.1\nLayerStack.norm_epsilon = 1e-06\n")
    mesh_settings.check(str(path))


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkpoint whose config.gin is still to be written."""
    return random_checkpoints.write_checkpoint("mtf", tmp_path / "start", SWITCH)


@pytest.mark.parametrize(
    ("to", "options"),
    [("hf", {}), ("t5x", {}), ("mtf", {"gin_files": ["runs/converted.gin"]})],
)
def test_convert_refuses_to_lose_them(source: Path, to: str, options, tmp_path: Path) -> None:
    (source / "config.gin").write_text("sublayer_rms_norm.epsilon = 0.1\n")
    with pytest.raises(UserError, match=r"epsilon = 0\.1, which .*without --gin_file keeps"):
        conversions.convert("mtf", to, source, tmp_path / "to", **options)
    assert not (tmp_path / "to").exists()


def test_a_run_that_is_kept_keeps_them(source: Path, tmp_path: Path) -> None:
    gin_config.parse(
        ["models/switch_base_tiny.gin", "runs/converted.gin"],
        ["sublayer_rms_norm.epsilon = 0.1", "DenseReluDense.activation = 'relu'"],
    )
    (source / "config.gin").write_text(gin_config.to_text())
    conversions.convert("mtf", "mtf", source, tmp_path / "to")
    assert "sublayer_rms_norm.epsilon = 0.1\n" in (tmp_path / "to" / "config.gin").read_text()


def test_no_token_left_behind_is_kept_or_its_loss_is_said(source: Path, tmp_path: Path) -> None:
    router = "SwitchFFN.router = @NoTokenLeftBehindRouter()\n"
    (source / "config.gin").write_text(f"{router}NoTokenLeftBehindRouter.stages = 3\n")
    result = conversions.convert("mtf", "hf", source, tmp_path / "hf")
    (note,) = result.notes
    assert "a token whose expert is full tries up to 3. The converted model drops" in note
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["num_experts"] == 4
    result = conversions.convert(
        "mtf", "mtf", source, tmp_path / "mtf", gin_files=["runs/converted.gin"]
    )
    assert result.notes == ()
    text = (tmp_path / "mtf" / "config.gin").read_text()
    assert router in text
    assert "NoTokenLeftBehindRouter.stages = 3\n" in text
