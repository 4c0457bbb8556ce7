from __future__ import annotations

import os
import subprocess
import sys

import pytest

from mtf_switch.cli import main
from mtf_switch.config import gin_files

COMMANDS = ("train", "eval", "predict", "score")
OTHERS = ("plan", "finetune", "compare", "superglue", "tasks", "prepare", "reproduce")


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in (*COMMANDS, *OTHERS))]
)
def test_help_answers_within_a_second_and_imports_no_tensorflow(arguments):
    code = (
        "import sys; sys.argv = ['run_switch.py', *sys.argv[1:]]\n"
        "import runpy, atexit\n"
        "atexit.register(lambda: print('tensorflow' in sys.modules))\n"
        "runpy.run_path('run_switch.py', run_name='__main__')\n"
    )
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=gin_files.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    after = os.times()
    assert done.stdout.startswith("usage: run_switch.py")
    assert done.stdout.endswith("False\n")
    # CPU time: the machine may be busy.
    assert after.children_user - before.children_user < 1.0


@pytest.mark.parametrize("value", ["0", "-3", "many", "1.5"])
def test_steps_that_are_not_positive_numbers_are_refused(value, capsys):
    with pytest.raises(SystemExit) as exit_:
        main.main(["train", "--model_dir=x", f"--steps={value}"])
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert f"{value!r} is not a whole number of at least 1" in message


def test_training_without_a_model_says_which_flag_names_one(capsys):
    assert main.main(["train", "--model_dir=x"]) == 1
    assert (
        "pass --gin_file, such as --gin_file=models/switch_tiny.gin" in capsys.readouterr().err
    )


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_a_folder_that_is_not_a_model_dir_is_refused(command, tmp_path, capsys):
    files = {
        "eval": [],
        "predict": ["--input_file=a", "--output_file=b"],
        "score": ["--input_file=a", "--target_file=b", "--output_file=c"],
    }
    assert main.main([command, f"--model_dir={tmp_path}", *files[command]]) == 1
    message = capsys.readouterr().err
    assert f"{tmp_path} holds no config.gin" in message
    assert "Traceback" not in message


def test_the_messages_of_users_mistakes_do_not_show_gins_chain_of_calls(tiny, tmp_path, capsys):
    result = tiny.train(
        tmp_path / "model", params={"ExpertCapacity.capacity_factor_train": "0.0"}
    )
    assert result.code == 1
    assert "capacity_factor_train is 0.0, but it must be a number above 0" in result.err
    assert "In call to configurable" not in result.err


def test_an_unknown_task_is_named_with_the_nearest_ones(tiny, tmp_path):
    arguments = tiny.train_arguments(tmp_path / "model", "--task=embeded_text")
    result = tiny.command(*(a for a in arguments if not a.startswith("--corpus")))
    assert result.code == 1
    assert "There is no task or mixture 'embeded_text'" in result.err
    assert "embedded_text" in result.err.split("nearest names are")[1]
    assert not (tmp_path / "model").exists()


def test_a_corpus_and_a_task_are_not_trained_together(tiny, tmp_path):
    result = tiny.train(tmp_path / "model", "--task=embedded_text")
    assert result.code == 1
    assert "--corpus trains on your text and --task=embedded_text on a task" in result.err
    assert not (tmp_path / "model").exists()


def test_several_commands_run_until_one_fails(monkeypatch) -> None:
    ran = []

    def run(command):
        ran.append(command)
        return 7 if command == ["fails"] else 0

    monkeypatch.setattr(main, "main", run)
    assert main.run_several([["works"], ["works", "too"]]) == 0
    assert main.run_several([["works"], ["fails"], ["never"]]) == 7
    assert ran == [["works"], ["works", "too"], ["works"], ["fails"]]
