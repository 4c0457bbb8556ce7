"""From gin files and bindings to settings, and every mistake on the way."""

from __future__ import annotations

from pathlib import Path

import gin
import mesh_tensorflow as mtf
import pytest
from tiny_run import contents

from mtf_switch.config import gin_config, run_settings, saved_config
from mtf_switch.errors import UserError
from mtf_switch.model.adafactor import LeanAdafactor

FILES = ["models/switch_base.gin"]
TASK = "MIXTURE_NAME = 'text_files'"


def parse(*params: str, files: list[str] = FILES) -> None:
    gin_config.parse(files, [TASK, *params])


def settings(*params: str) -> run_settings.RunSettings:
    parse("utils.run.train_steps = 6", *params)
    return run_settings.from_gin()


def test_bindings_win_over_files_and_later_ones_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "narrow.gin").write_text("d_model = 24\nd_ff = 40\n")
    parse("d_ff = 48", "d_ff = 56", files=[*FILES, str(tmp_path / "narrow.gin")])
    assert gin.query_parameter("%d_model") == 24
    assert gin.query_parameter("%d_ff") == 56
    assert gin.query_parameter("%num_experts") == 128  # models/switch_base.gin


@pytest.mark.parametrize("file", ["models/t5_base.gin", "gin/models/t5_base.gin"])
def test_a_gin_file_is_found_from_the_gin_folder_and_the_repository(
    file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    parse(files=[file])
    assert gin.query_parameter("%d_ff") == 2048


def test_a_gin_file_is_found_from_the_working_directory_and_in_t5(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mine.gin").write_text("num_heads = 5\n")
    monkeypatch.chdir(tmp_path)
    parse(files=["models/t5.1.1.small.gin", "mine.gin"])
    assert gin.query_parameter("%num_heads") == 5
    assert gin.query_parameter("%d_ff") == 1024


def test_a_second_parse_forgets_the_first() -> None:
    parse("SwitchRouter.aux_loss_coef = 0.5")
    parse()
    with pytest.raises(ValueError, match=r"has no bound parameters|aux_loss_coef"):
        gin.query_parameter("SwitchRouter.aux_loss_coef")


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("SwitchFNN.num_experts = 3", "No configurable matching 'SwitchFNN'. The nearest "),
        ("SwitchFNN.num_experts = 3", r"nearest names are: SwitchFFN"),
        ("SwitchFFN.router = @SwitchRoutr()", r"nearest names are: SwitchRouter"),
        ("SwitchFFN.num_expert = 3", "parameter named 'num_expert'. The nearest names are: num_experts"),
        ("num_expert = 3", "has no effect: nothing uses %num_expert. The nearest names are: num_experts"),
        ("SwitchFFN.num_experts = %nm_experts", "%nm_experts is used, but nothing binds nm_experts. "),
        ("decode.beam_size = 3", "Ambiguous selector 'decode', matches .*'Bitransformer.decode'.*Write one"),
        ("d_model 16", "expected ':' or '='"),
        ("d_model =", "Unable to parse value"),
        ("d_model = [1,", "EOF in multi-line statement"),
        ("d_model = one", "'d_model = one'.*malformed|Failed to parse token 'one'"),
    ],
)  # fmt: skip
def test_a_bad_binding_is_named_with_the_nearest_names(param: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        parse(param)
    assert "%nm_experts" in param or repr(param) in str(caught.value)


def test_an_unknown_gin_file_is_named_with_the_nearest_files() -> None:
    with pytest.raises(UserError, match=r"models/switch_tny.gin.*gin/models/switch_tiny.gin"):
        parse(files=["models/switch_tny.gin"])


def test_a_gin_file_with_a_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.gin").write_text("d_model = 16\nd_ff == 32\n")
    with pytest.raises(UserError, match=r"gin files cannot be read: .*bad\.gin.*line 2|line 2.*bad\.gin"):  # fmt: skip
        parse(files=[*FILES, str(tmp_path / "bad.gin")])


def test_a_run_without_a_task_is_refused() -> None:
    gin_config.parse(FILES, [])
    with pytest.raises(UserError, match=r"No task is named: pass --task=NAME"):
        run_settings.from_gin()


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
        UserError, match=f"training steps is {steps}, but it must be at least 1"
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


def test_bind_has_the_last_word() -> None:
    parse("utils.run.train_steps = 6")
    gin_config.bind("utils.run.train_steps", 9)
    assert run_settings.from_gin().train_steps == 9


def test_the_text_of_a_configuration_parses_back_to_itself(tmp_path: Path) -> None:
    parse("SwitchFFN.activation = ['gelu', 'linear']", "utils.run.train_steps = 6")
    text = gin_config.to_text()
    (tmp_path / "config.gin").write_text(text)
    saved_config.load(str(tmp_path))
    assert gin_config.to_text() == text


def test_loading_puts_further_bindings_on_top(tmp_path: Path) -> None:
    parse("utils.run.train_steps = 6")
    saved_config.save_or_compare(str(tmp_path))
    saved_config.load(str(tmp_path), gin_params=["SwitchFFN.num_experts = 2"])
    assert gin.query_parameter("SwitchFFN.num_experts") == 2


def test_a_folder_without_a_configuration_is_no_model_dir(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no config.gin, so it is not the model_dir of"):
        saved_config.load(str(tmp_path))


def checkpointed(model_dir: Path, *params: str) -> Path:
    """A model_dir with a configuration, that says it has a checkpoint."""
    parse(*params)
    saved_config.save_or_compare(str(model_dir))
    (model_dir / "checkpoint").write_text('model_checkpoint_path: "model.ckpt-3"\n')
    (model_dir / "model.ckpt-3.index").write_text("")
    return model_dir


def test_another_configuration_is_refused_with_the_difference(tmp_path: Path) -> None:
    model_dir = checkpointed(tmp_path / "run", "d_model = 16", "init_scale.s = 0.1")
    before = contents(model_dir)
    parse("d_model = 24", "init_scale.s = 0.1", "Exploration.jitter = 0.0")
    with pytest.raises(UserError) as caught:
        saved_config.save_or_compare(str(model_dir))
    message = str(caught.value)
    assert message.startswith(f"{model_dir} was made with another configuration")
    differing = [line.strip() for line in message.splitlines() if line.startswith("  ")]
    assert sorted(differing) == [
        "+Exploration.jitter = 0.0",
        "+d_model = 24",
        "-d_model = 16",
    ]
    assert "Train in another --model_dir" in message
    assert contents(model_dir) == before


@pytest.mark.parametrize(
    "param",
    [
        "utils.run.train_steps = 12",
        "utils.run.save_checkpoints_steps = 4",
        "utils.run.keep_checkpoint_max = 2",
        "utils.run.mesh_shape = 'batch:2'",
        "Bitransformer.decode.beam_size = 2",
    ],
)
def test_how_long_how_often_and_where_may_change(param: str, tmp_path: Path) -> None:
    model_dir = checkpointed(tmp_path / "run", "utils.run.train_steps = 6")
    parse("utils.run.train_steps = 6", param)
    saved_config.save_or_compare(str(model_dir))


def test_what_ended_before_its_first_checkpoint_is_replaced(tmp_path: Path) -> None:
    parse("d_model = 16")
    saved_config.save_or_compare(str(tmp_path / "run"))
    parse("d_model = 24")
    saved_config.save_or_compare(str(tmp_path / "run"))
    assert "d_model = 24\n" in (tmp_path / "run" / "config.gin").read_text()


def test_a_model_dir_below_a_file_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    parse()
    with pytest.raises(UserError, match=r"file/run cannot be written \(.*\). Choose a folder"):
        saved_config.save_or_compare(str(tmp_path / "file" / "run"))
