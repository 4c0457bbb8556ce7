"""Modules of the user: found in the working folder, imported on request, refused with a line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mtf_switch.cli import t5_flags
from mtf_switch.config import gin_config, saved_config, user_modules
from mtf_switch.errors import UserError

NAME = "mtf_switch_test_module"
RUN = ["models/t5_base.gin", "runs/c4.gin"]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch) -> Iterator[Path]:
    """A working folder, and a process without its modules."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    sys.modules.pop(NAME, None)
    user_modules.import_all([])


def write(folder: Path, text: str) -> str:
    (folder / f"{NAME}.py").write_text(text)
    return NAME


def test_a_module_of_the_working_folder_is_kept_before_its_bindings(folder: Path) -> None:
    text = "import gin\n\n@gin.configurable\ndef mtf_switch_test_rate(step=0, **kwargs):\n    return 1.0\n"
    module = write(folder, text)
    user_modules.check(module)
    user_modules.import_all([module])
    assert sys.path[-1] == str(folder)
    rate = "utils.run.learning_rate_schedule = @mtf_switch_test_rate"
    gin_config.parse(RUN, [rate])
    config = gin_config.to_text()
    assert f"import {module}\n" in config
    assert config.index(f"import {module}\n") < config.index("run.learning_rate_schedule")

    # A saved configuration is data: the module must be named again.
    saved = gin_config.SavedText(config, "D/config.gin")
    gin_config.parse([], [], saved)
    user_modules.import_all([])
    message = (
        rf"D/config.gin contains 'import {module}', but a saved .*--module_import={module}"
    )
    with pytest.raises(UserError, match=message):
        gin_config.parse([], [], saved)


def test_a_run_that_needs_a_module_is_refused_before_tensorflow(folder: Path) -> None:
    (folder / "config.gin").write_text("import os\nimport t5.data\nimport mesh_tensorflow\n")
    options = argparse.Namespace(model_dir=str(folder), module_import=[], gin_file=[])
    with pytest.raises(
        UserError, match=r"config.gin contains 'import os', .*--module_import=os"
    ):
        t5_flags.check_modules(options)
    t5_flags.check_modules(argparse.Namespace(**{**vars(options), "module_import": ["os"]}))
    assert saved_config.is_started(str(folder)) is False


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\ny = = 2\n", rf"{NAME}.py, line 2: invalid syntax"),
        ("x = 1\n\nx.y\n", rf"{NAME}.py, line 3: AttributeError: 'int' object has no"),
        (
            "import no_such_module\n",
            r"line 1: ModuleNotFoundError: No module named 'no_such_mo",
        ),
        ("import sys\nsys.exit('stop')\n", r"line 2: SystemExit: stop"),
    ],
)
def test_a_module_that_fails_is_one_sentence_with_its_line(
    folder: Path, text: str, message: str
) -> None:
    module = write(folder, text)

    def check_and_import() -> None:
        user_modules.check(module)
        user_modules.import_all([module])

    with pytest.raises(UserError, match=message) as caught:
        check_and_import()
    assert "\n" not in str(caught.value)
    assert user_modules.list_imported() == []


def test_names_that_cannot_be_used(folder: Path) -> None:
    with pytest.raises(UserError, match="there is no module 'no_such_module' in"):
        user_modules.check("no_such_module")
    with pytest.raises(UserError, match="there is no module 'a/b'"):
        user_modules.check("a/b.py")
    (folder / "tasks.py").write_text("")
    with pytest.raises(
        UserError, match=r"tasks.py has the name of a module that this program u"
    ):
        user_modules.check("tasks")
    user_modules.check("json")
