"""A saved configuration is data: its author cannot make this program run other code."""

from __future__ import annotations

from pathlib import Path

import gin
import pytest

from mtf_switch.config import gin_config, saved_config
from mtf_switch.conversion import model_gin
from mtf_switch.conversion.architecture import Architecture
from mtf_switch.errors import UserError
from mtf_switch.runs.pretrained_checkpoint import PretrainedCheckpoint

# A binding that every saved configuration has.
TASK = "MIXTURE_NAME = 'text_files'\nrun.skip_seen_data = True"
# Each tries to run `touch.run`, or a Python function.
PROGRAMS = {
    "include": ("include 'extra.gin'", r"includes 'extra.gin', but a saved configuration is"),
    "import": ("import touch", r"contains 'import touch', but a saved configuration is data"),
    "import from": ("from touch import run", r"contains 'from touch import run', but"),
    "import as": ("import os.path as t5", r"contains 'import os.path as t5', but"),
    "dynamic registration": (
        "from __gin__ import dynamic_registration\nimport subprocess\n"
        "utils.run.train_steps = @subprocess.check_output()\n"
        "subprocess.check_output.args = ['touch', 'ran']",
        r"contains 'from __gin__ import dynamic_registration', with which gin would call",
    ),
    "reference": (
        "utils.run.train_steps = @evil()",
        r"names 'evil' from the module '\w*saved_data_test', but a saved configuration is data",
    ),
    "nested reference": (
        "utils.run.learning_rate_schedule = [{'a': (@x/evil,)}]",
        r"names 'evil' from the module",
    ),
}


@gin.configurable
def evil() -> int:
    """A function that another package of this process might register with gin."""
    raise AssertionError("it ran")


@pytest.fixture
def here(tmp_path: Path, monkeypatch) -> Path:
    """A working directory with a module and a gin file that must not be read."""
    (tmp_path / "touch.py").write_text("open('ran', 'w').close()\n")
    (tmp_path / "extra.gin").write_text("import touch\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_in_the_configuration_of_a_model_dir_is_refused(here: Path, name: str):
    statement, message = PROGRAMS[name]
    (here / "config.gin").write_text(f"{statement}\n{TASK}\n")
    with pytest.raises(UserError, match=message) as caught:
        saved_config.load(str(here))
    assert str(caught.value).startswith(f"{here}/config.gin ")
    assert "\n" not in str(caught.value)
    assert not (here / "ran").exists()


@pytest.mark.parametrize("file", ["config.gin", "operative_config.gin"])
@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_beside_a_checkpoint_to_fine_tune_is_refused(
    here: Path, monkeypatch, name: str, file: str
):
    statement, message = PROGRAMS[name]
    monkeypatch.setattr("tensorflow.compat.v1.train.checkpoint_exists", lambda path: True)
    (here / file).write_text(f"{statement}\n{TASK}\n".replace("utils.run.train_steps", "d_ff"))
    checkpoint = str(here / "model.ckpt-3")
    if "learning_rate_schedule" in statement:
        pytest.skip("bindings of a run are not inherited")
    with pytest.raises(UserError, match=message):
        PretrainedCheckpoint.from_path(checkpoint).configure_run([], [TASK], str(here))
    assert not (here / "ran").exists()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_beside_a_checkpoint_to_convert_is_refused(here: Path, name: str):
    statement, message = PROGRAMS[name]
    (here / "config.gin").write_text(f"{statement}\n{TASK}\n")
    (here / "to").mkdir()
    with pytest.raises(UserError, match=message):
        model_gin.write_gin_files(
            str(here / "to"),
            Architecture(128, 16, 4, 24, 3, (False,), (False,), 0, ("relu",), True),
            "float32",
            source_format="mtf",
            source=str(here),
            gin_files=[],
            gin_params=[],
            vocabulary=None,
        )
    assert not (here / "ran").exists()


def test_the_users_own_gin_file_permits_what_it_imports(here: Path):
    (here / "config.gin").write_text(f"import touch\n{TASK}\nd_model = 8\n")
    (here / "mine.gin").write_text("import touch\n")
    saved_config.load(str(here), [str(here / "mine.gin")])
    assert gin.query_parameter("%d_model") == 8
    assert (here / "ran").exists()


def test_what_the_project_saves_imports_only_what_may_be_imported(here: Path):
    gin_config.parse(["models/switch_base.gin", "runs/c4.gin"], [])
    saved = gin_config.to_text()
    assert "import mesh_tensorflow" in saved
    (here / "config.gin").write_text(saved)
    saved_config.load(str(here))
    assert gin_config.to_text() == saved


def test_defaults_are_those_of_the_project_in_every_folder(here: Path):
    (here / "defaults.gin").write_text("import touch\n")
    gin_config.parse([], [TASK])
    assert not (here / "ran").exists()


def test_a_name_with_a_line_break_stays_within_its_comment():
    text = model_gin.format_model(
        Architecture(128, 16, 4, 24, 3, (False,), (False,), 0, ("relu",), True), "a"
    )
    assert "dropout_rate = 0.1\n" in text
    for value in ("0.1\ninclude 'extra.gin'", float("inf"), True, None):
        with pytest.raises(UserError, match="but it must be a finite number"):
            Architecture(
                *(128, 16, 4, 24, 3, (False,), (False,), 0, ("relu",), True),
                dropout_rate=value,
            )
    with pytest.raises(UserError, match="one or two names of activations"):
        Architecture(128, 16, 4, 24, 3, (), (), 0, ('x"\ninclude "extra.gin"',), True)
