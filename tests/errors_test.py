"""How mistakes of users are reported."""

from __future__ import annotations

import errno

import pytest

from mtf_switch import errors


def raise_error(error: BaseException) -> None:
    raise error


def test_a_command_that_succeeds_prints_nothing(capsys) -> None:
    assert errors.run_command(lambda: None, "demo") == 0
    assert capsys.readouterr() == ("", "")


def test_a_user_error_is_one_message_without_gins_chain_of_calls(capsys) -> None:
    error = errors.UserError("It is 3, but must be 4.\n  In call to configurable 'run'")
    assert errors.run_command(lambda: raise_error(error), "demo") == 1
    assert capsys.readouterr() == ("", "demo: It is 3, but must be 4.\n")


def test_a_hint_follows_the_message(capsys) -> None:
    error = errors.UserError("It is 3.")
    assert errors.run_command(lambda: raise_error(error), "demo", hint="Try 4.") == 1
    assert capsys.readouterr() == ("", "demo: It is 3. Try 4.\n")


@pytest.mark.parametrize(
    ("called", "name"),
    [
        ("/usr/bin/mtf_switch", "mtf_switch"),
        ("run_switch.py", "run_switch.py"),
        ("/x/mtf_switch/run_switch.py", "run_switch.py"),
        ("-c", "run_switch.py"),
    ],
)
def test_hints_name_the_program_as_it_was_called(monkeypatch, called: str, name: str) -> None:
    monkeypatch.setattr("sys.argv", [called, "eval"])
    assert errors.name_program() == name


@pytest.mark.parametrize(("hint", "printed"), [("Go on.", "Stopped. Go on."), ("", "Stopped.")])
def test_an_interrupted_command_says_how_to_continue(capsys, hint: str, printed: str) -> None:
    interrupt = KeyboardInterrupt()
    code = errors.run_command(lambda: raise_error(interrupt), "demo", when_interrupted=hint)
    assert code == 130
    assert capsys.readouterr() == ("", printed + "\n")


def test_a_full_disk_is_reported_in_one_sentence_by_every_command(capsys) -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "run/eval.json")
    assert errors.run_command(lambda: raise_error(full), "demo") == 1
    assert capsys.readouterr().err == (
        "demo: run/eval.json cannot be written: No space left on device. Free some space; the "
        "same command starts again.\n"
    )
    with pytest.raises(PermissionError):
        errors.run_command(lambda: raise_error(PermissionError(errno.EACCES, "no")), "demo")


def test_a_signal_sets_the_exit_code(capsys) -> None:
    stopped = errors.Interrupted(15, "Stopped at step 3.")
    code = errors.run_command(lambda: raise_error(stopped), "demo", when_interrupted="Go on.")
    assert code == 143
    assert capsys.readouterr().err == "Stopped at step 3. Go on.\n"


def test_other_errors_are_not_hidden() -> None:
    with pytest.raises(ValueError, match="a bug"):
        errors.run_command(lambda: raise_error(ValueError("a bug")), "demo")


def test_similar_names_are_suggested_the_most_similar_first() -> None:
    known = ["validation", "test", "train", "trains"]
    assert errors.suggest_names("trian", known, count=1) == " The nearest names are: train."
    assert errors.suggest_names("xyz", known) == ""


@pytest.mark.parametrize(
    ("number", "target", "text"), [(12, 5, "4 and 6"), (12, 4, "3 and 6"), (7, 8, "7")]
)
def test_the_nearest_divisors_are_the_next_below_and_above(number, target, text) -> None:
    assert errors.nearest_divisors(number, target) == text


def test_the_first_of_many_items_are_named_and_the_others_counted() -> None:
    assert errors.join_first(["a", "b", "c"]) == "a; b; c"
    assert errors.join_first(["a", "b", "c", "d", "e"]) == "a; b; c, and 2 more"


def test_an_address_that_cannot_be_reached_is_reported_in_one_sentence(capsys) -> None:
    import tensorflow as tf

    reason = "Error executing an HTTP request: libcurl code 6\n\t when reading gs://bucket/"
    error = tf.errors.FailedPreconditionError(None, None, reason)
    assert errors.run_command(lambda: raise_error(error), "demo") == 1
    assert capsys.readouterr().err == (
        "demo: The network cannot be used: Error executing an HTTP request: libcurl code 6.\n"
    )
    other = tf.errors.FailedPreconditionError(None, None, "a bug")
    with pytest.raises(tf.errors.FailedPreconditionError):
        errors.run_command(lambda: raise_error(other), "demo")
