"""Bindings without effect are refused, with advice about what to use instead."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
from mesh_tensorflow.transformer import utils

from mtf_switch.config import effects, gin_config
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError

FILES = ["models/switch_base.gin", "runs/embedded.gin"]

REFUSED = {
    "utils.run.mode = 'eval'": r"has no effect: run_switch.py does not read mode. The command",
    "utils.run.eval_checkpoint_step = 'all'": r"Use the flag --checkpoint_steps of eval",
    "utils.run.dataset_split = 'test'": r"does not read dataset_split. Use the flag --split",
    "tpu_estimator_model_fn.tpu_summaries = True": r"tpu_summaries of .* in any case",
    "utils.tpu_estimator_model_fn.batch_size = 4": r"batch_size of .*Use utils.run.batch_size",
    "tpu_mesh_shape.model_parallelism = 2": r"nothing uses tpu_mesh_shape. Add --gin_file=lay",
    "mesh.data = 4": r"nothing uses mesh. Add --gin_file=layouts/expert_data.gin",
    "TopKRouter.k = 2": r"nothing uses TopKRouter. Add SwitchFFN.router = @TopKRouter\(\)",
    "learning_rate_schedule_noam.warmup_steps = 5": r"nothing uses learning_rate_schedule_noam",
    "encodr/ExpertCapacity.capacity_factor_train = 1.0": (
        r"encodr/.* has no effect, because there is no scope 'encodr'. The nearest .* encoder"
    ),
    "encoder/layer/SwitchFFN.num_experts = 2": r"there is no scope 'layer'",
}


@pytest.mark.parametrize("binding", REFUSED)
def test_a_binding_without_effect_is_refused_with_what_to_use(binding: str):
    with pytest.raises(UserError, match=REFUSED[binding]) as caught:
        gin_config.parse(FILES, [binding])
    assert "\n" not in str(caught.value)


def test_bindings_with_an_effect_are_accepted():
    gin_config.parse(
        [*FILES, "layouts/expert_data.gin"],
        [
            "mesh.data = 4",
            "SwitchFFN.router = @TopKRouter()",
            "TopKRouter.k = 2",
            "encoder/ExpertCapacity.capacity_factor_train = 1.0",
            "SwitchFFN.capacity = @mine/ExpertCapacity()",
            "mine/ExpertCapacity.group_size = 64",
            "linear_warmup.steps_or_fraction = 0.1",
        ],
    )


def test_every_parameter_of_t5s_main_loop_is_read_or_refused():
    read = {field.name for field in dataclasses.fields(RunSettings)} | {"total_run_steps"}
    parameters = set(inspect.signature(utils.run).parameters)
    assert parameters - read == set(effects._INSTEAD)


def test_every_parameter_of_t5s_model_function_is_read_or_refused():
    parameters = set(inspect.signature(utils.tpu_estimator_model_fn).parameters)
    assert set(effects.GRAPH_PARAMETERS) < parameters
    for parameter in parameters - {*effects.GRAPH_PARAMETERS, "predict_fn"}:  # gin refuses it
        with pytest.raises(UserError, match=f"does not read {parameter} of"):
            gin_config.parse(FILES, [f"tpu_estimator_model_fn.{parameter} = 'x'"])


def test_the_incomplete_configuration_of_earlier_versions_is_refused(tmp_path: Path):
    (tmp_path / "operative_config.gin").write_text("d_model = 16\n")
    path = str(tmp_path / "operative_config.gin")
    gin_config.parse(
        [path], ["MIXTURE_NAME = 'x'"]
    )  # alone, it is T5's file, which is complete
    (tmp_path / "config.gin").write_text("d_model = 16\n")
    message = (
        f"{path} lacks the settings of the run, .* configuration, {tmp_path / 'config.gin'}"
    )
    with pytest.raises(UserError, match=message.replace(re.escape("."), ".")):
        gin_config.parse([path], ["MIXTURE_NAME = 'x'"])
