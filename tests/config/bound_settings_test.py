"""The settings of a run, read from gin."""

from __future__ import annotations

from pathlib import Path

import mesh_tensorflow as mtf
import pytest

from mtf_switch.config import bound_settings, gin_config, run_settings
from mtf_switch.errors import UserError
from mtf_switch.model.adafactor import LeanAdafactor

FILES = ["models/switch_base.gin"]


def settings(*params: str) -> run_settings.RunSettings:
    steps = "utils.run.train_steps = 6"
    gin_config.parse(FILES, ["MIXTURE_NAME = 'text_files'", steps, *params])
    return bound_settings.read_settings()


def test_a_run_without_a_task_is_refused() -> None:
    gin_config.parse(FILES, [])
    with pytest.raises(UserError, match=r"No task is named: pass --task=NAME"):
        bound_settings.read_settings()


def test_settings_are_what_gin_says() -> None:
    got = settings(
        "utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
        "utils.run.batch_size = 8",
        "utils.run.save_checkpoints_steps = 3",
        "utils.run.mesh_shape = 'batch:2,model:2'",
        "utils.run.layout_rules = 'batch:batch,experts:batch'",
        "run_config.seed.value = 7",
    )
    assert got.task == "text_files"
    assert got.model_type == "bitransformer"
    assert got.sequence_length == {"inputs": 32, "targets": 16}
    assert (got.batch_size, got.tokens_per_batch) == (8, 8 * 48)
    assert (got.train_steps, got.save_checkpoints_steps, got.seed) == (6, 3, 7)
    assert got.mesh_shape == mtf.convert_to_shape("batch:2;model:2")
    for name, axis in [("batch", 0), ("experts", 0), ("d_ff", None)]:
        dimension = mtf.Dimension(name, 8)
        rules, mesh = got.layout_rules, got.mesh_shape
        assert rules.tensor_dimension_to_mesh_axis(dimension, mesh) == axis
    assert got.optimizer is LeanAdafactor
    assert (got.autostack, got.skip_seen_data) == (False, True)


def test_a_language_model_without_inputs_counts_the_tokens_of_its_targets() -> None:
    lengths = "utils.run.sequence_length = {'inputs': 32, 'targets': 16}"
    got = settings(lengths, "utils.run.batch_size = 8", "utils.run.model_type = 'lm'")
    assert (got.features, got.tokens_per_batch) == (("targets",), 8 * 16)


def test_one_length_is_that_of_inputs_and_targets() -> None:
    got = settings("utils.run.sequence_length = 64")
    assert got.sequence_length == {"inputs": 64, "targets": 64}


def test_tokens_per_batch_become_sequences() -> None:
    """T5's rule: tokens over the longest sequence."""
    lengths = "utils.run.sequence_length = {'inputs': 32, 'targets': 16}"
    got = settings(lengths, "utils.run.batch_size = ('tokens_per_batch', 256)")
    assert got.batch_size == 256 // 32
    with pytest.raises(UserError, match=r"batch_size = \('tokens_per_batch', 7\) does not fit .* 32 "):  # fmt: skip
        settings(lengths, "utils.run.batch_size = ('tokens_per_batch', 7)")


@pytest.mark.parametrize("steps", [0, -3])
def test_fewer_than_one_step_is_refused(steps: int) -> None:
    with pytest.raises(
        UserError, match=f"train_steps is {steps}, but it must be a whole number of at least 1"
    ):
        settings(f"utils.run.train_steps = {steps}")


def test_the_learning_rate_is_a_number_a_schedule_or_a_product_of_schedules() -> None:
    assert settings("utils.run.learning_rate_schedule = 0.5").learning_rate_schedule == 0.5
    # T5's: 1 / sqrt(max(step, 10,000)), then linearly to 0 over the last tenth of all steps.
    noam = settings("utils.run.train_steps = 100_000").learning_rate_schedule
    assert float(noam(step=40_000.0)) == pytest.approx(40_000**-0.5)
    assert float(noam(step=95_000.0)) == pytest.approx(95_000**-0.5 / 2)
    product = settings(
        "utils.run.learning_rate_schedule = "
        "[@learning_rate_schedules.constant, @learning_rate_schedules.linear_warmup]",
        "learning_rate_schedules.constant.value = 2.0",
        "linear_warmup.steps_or_fraction = 10",
    ).learning_rate_schedule
    assert float(product(step=5.0)) == pytest.approx(1.0)


GRAPH = "utils.tpu_estimator_model_fn"


def test_three_parameters_of_t5s_model_function_are_settings(tmp_path: Path) -> None:
    got = settings()
    assert (got.outer_batch_size, got.model_info_file) == (1, None)
    assert got.hierarchical_tiling_spec is None
    got = settings(
        f"{GRAPH}.outer_batch_size = 2",
        f"{GRAPH}.model_info_file = 'sizes.txt'",
        f"{GRAPH}.hierarchical_tiling_spec = [['data', None], ['model', (2, 1)]]",
    )
    assert (got.outer_batch_size, got.model_info_file) == (2, "sizes.txt")
    assert got.hierarchical_tiling_spec == [["data", None], ["model", (2, 1)]]
    # T5's own configurations have these.
    assert settings(f"{GRAPH}.model_info_file = ''").model_info_file is None
    with pytest.raises(UserError, match="outer_batch_size = 3 does not divide the batch of 8"):
        settings(f"{GRAPH}.outer_batch_size = 3", "utils.run.batch_size = 8")
    # From a file, too, because ignoring it would change the run.
    (tmp_path / "mine.gin").write_text(f"{GRAPH}.init_checkpoint = 'model.ckpt-1'")
    gin_config.parse([*FILES, str(tmp_path / "mine.gin")], ["MIXTURE_NAME = 'x'"])
    with pytest.raises(UserError, match=r"must be None. Use utils.run.init_checkpoint\."):
        bound_settings.read_settings()
