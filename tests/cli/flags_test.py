"""Rules that the flags of all commands follow."""

from __future__ import annotations

import re

import pytest
from fuzzed_commands import parsers

from mtf_switch.cli import flags, main
from mtf_switch.errors import UserError

TEXT_FLAGS = sorted(
    (command, action.option_strings[0])
    for command, parser in parsers().items()
    for action in parser._actions
    if action.option_strings and action.nargs is None and action.metavar != "'NAME = VALUE'"
)


@pytest.mark.parametrize(("command", "flag"), TEXT_FLAGS)
def test_an_empty_value_of_a_flag_is_refused(command: str, flag: str, capsys) -> None:
    for value in ("", " "):
        with pytest.raises(SystemExit) as exit_:
            main.main([command, f"{flag}={value}"])
        assert exit_.value.code == 2
        # A flag with another name is shown with both.
        assert re.search(rf"error: argument {flag}(/--\w+)?: ", capsys.readouterr().err)


def test_a_null_character_is_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        main.main(["eval", "--model_dir=a\0b"])
    assert "'a\\x00b' contains a null character" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["no-such-tpu", "grpc://"])
def test_a_tpu_that_is_not_found_is_refused(name: str, monkeypatch, tmp_path) -> None:
    def fail(*_, **__):
        raise OSError("Name or service\nnot known")

    monkeypatch.setattr("tensorflow.distribute.cluster_resolver.TPUClusterResolver", fail)
    options = main.make_parser().parse_args(
        ["eval", f"--model_dir={tmp_path}", f"--tpu={name}"]
    )
    with pytest.raises(
        UserError, match=rf"The TPU '{name}' is not found \(OSError: Name or ser"
    ):
        flags.tpu_cluster(options)
