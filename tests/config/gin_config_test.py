"""From gin files and bindings to settings, and every mistake on the way."""

from __future__ import annotations

from pathlib import Path

import gin
import pytest

from mtf_switch.config import bound_settings, gin_config, saved_config
from mtf_switch.errors import UserError

FILES = ["models/switch_base.gin"]
TASK = "MIXTURE_NAME = 'text_files'"


def parse(*params: str, files: list[str] = FILES) -> None:
    gin_config.parse(files, [TASK, *params])


def test_bindings_win_over_files_and_later_ones_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / "narrow.gin").write_text("d_model = 24\nd_ff = 40\n")
    parse("d_ff = 48", "d_ff = 56", files=[*FILES, str(tmp_path / "narrow.gin")])
    assert gin.query_parameter("%d_model") == 24
    assert gin.query_parameter("%d_ff") == 56
    assert gin.query_parameter("%num_experts") == 128  # models/switch_base.gin


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


def test_a_gin_file_with_a_mistake_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "bad.gin").write_text("d_model = 16\nd_ff == 32\n")
    with pytest.raises(UserError, match=r"gin files cannot be read: .*bad\.gin.*line 2|line 2.*bad\.gin"):  # fmt: skip
        parse(files=[*FILES, str(tmp_path / "bad.gin")])


def test_bind_has_the_last_word() -> None:
    parse("utils.run.train_steps = 6")
    gin_config.bind("utils.run.train_steps", 9)
    assert bound_settings.read_settings().train_steps == 9


def test_the_text_of_a_configuration_parses_back_to_itself(tmp_path: Path) -> None:
    parse("SwitchFFN.activation = ['gelu', 'linear']", "utils.run.train_steps = 6")
    text = gin_config.to_text()
    (tmp_path / "config.gin").write_text(text)
    saved_config.load(str(tmp_path))
    assert gin_config.to_text() == text


def test_files_that_include_one_another_in_a_circle_are_refused(tmp_path) -> None:
    for one, other in (("a", "b"), ("b", "a")):
        (tmp_path / f"{one}.gin").write_text(f"include '{tmp_path}/{other}.gin'\n")
    with pytest.raises(UserError, match=r"files include one another in a circle") as caught:
        gin_config.parse([str(tmp_path / "a.gin")], [])
    assert "\n" not in str(caught.value)
