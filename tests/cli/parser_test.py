"""Mistakes in the names of commands and flags, in one sentence each."""

from __future__ import annotations

import pytest

from mtf_switch.cli import main


def refuse(arguments: list[str], capsys) -> str:
    with pytest.raises(SystemExit) as exit_:
        main.main(arguments)
    assert exit_.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    return message


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["trian"], "there is no command 'trian'. The nearest names are: train. The commands"),
        # Argparse would say that --model_dir is missing.
        (
            ["train", "--modl_dir=x"],
            "there is no flag --modl_dir. The nearest names are: --mod",
        ),
        (
            ["eval", "--model_dir=x", "--bach", "3"],
            "there is no flag --bach. The nearest names are: --eval_batches",
        ),
        (["--model_dir=x", "train"], "there is no flag --model_dir. Flags of a command come "),
        (
            ["xyzzy"],
            "there is no command 'xyzzy'. The commands are train, finetune, distil, eval",
        ),
        (["eval", "--xyzzyx"], "there is no flag --xyzzyx. See "),
        (["eval", "--s=1", "--model_dir=x", "--o"], "there is no flag --o."),
        ([], "the following arguments are required: COMMAND. See "),
    ],
)
def test_an_unknown_name_is_refused_with_the_nearest_ones(arguments, start, capsys) -> None:
    assert f": error: {start}" in refuse(arguments, capsys)


def test_the_beginning_of_a_flag_is_enough(tmp_path, capsys) -> None:
    assert main.main(["eval", f"--model={tmp_path}"]) == 1
    assert "holds no config.gin" in capsys.readouterr().err


def test_what_follows_two_dashes_is_no_flag(tmp_path, capsys) -> None:
    assert "--nope" in refuse(["tasks", "--", "*", "--nope"], capsys)
    assert main.main(["prepare", "--task=x", "--gin_file=nope.gin"]) == 1
