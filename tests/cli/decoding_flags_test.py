"""The decoding flags of `predict`: which are bound, and which are refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import untrained_run

from mtf_switch.cli import decoding_flags, flags, main
from mtf_switch.errors import UserError


def parse(folder: Path, *arguments: str, bindings: tuple[str, ...] = ()):
    """Parses the arguments of `predict`, for a run whose config.gin has these bindings."""
    model_dir = untrained_run.make(folder / "run", *bindings)
    (folder / "inputs.txt").write_text("a\n")
    return main.make_parser().parse_args(
        [
            "predict",
            f"--model_dir={model_dir}",
            f"--input_file={folder / 'inputs.txt'}",
            f"--output_file={folder / 'outputs.txt'}",
            *arguments,
        ]
    )


def test_only_flags_that_are_given_are_bound(tmp_path: Path) -> None:
    """A default would override the user's bindings with --gin_param."""
    assert decoding_flags.gin_bindings(parse(tmp_path)) == []
    assert decoding_flags.gin_bindings(parse(tmp_path, "--temperature=0", "--beams=1")) == [
        "Bitransformer.decode.beam_size = 1",
        "Bitransformer.decode.temperature = 0.0",
    ]
    assert decoding_flags.gin_bindings(
        parse(tmp_path, "--temperature=0.8", "--top_k=40", "--max_length=9")
    ) == [
        "Bitransformer.decode.temperature = 0.8",
        "Bitransformer.decode.sampling_keep_top_k = 40",
        "Bitransformer.decode.max_decode_length = 9",
    ]


_BEAMS = "Bitransformer.decode.beam_size = 4"
_SAMPLES = "Bitransformer.decode.temperature = 0.5"


@pytest.mark.parametrize(
    ("arguments", "bindings", "message"),
    [
        (["--beams=4", "--temperature=0.5"], [], "Beam search and sampling exclude each other"),
        (["--beams=4"], [_SAMPLES], "beams are 4 and the temperature is 0.5"),
        (["--temperature=0.5", f"--gin_param={_BEAMS}"], [], "exclude each other"),
        (["--top_k=40"], [], "--top_k=40 has no effect at a temperature of 0"),
        (["--top_k=40", "--temperature=0"], [_SAMPLES], "no effect at a temperature of 0"),
        (["--top_k=40", "--beams=2"], [], "a top_k of 40 has no effect"),
        (
            ["--beams=2"],
            ["utils.run.model_type = 'lm'"],
            r"--beams is for models with an encoder.*model_type = 'lm'",
        ),
    ],
)
def test_flags_without_effect_are_refused(
    tmp_path: Path, arguments: list[str], bindings: list[str], message: str
) -> None:
    options = parse(tmp_path, *arguments, bindings=tuple(bindings))
    with pytest.raises(UserError, match=message):
        flags.check_all(options)


@pytest.mark.parametrize(
    ("arguments", "bindings"),
    [
        ([], []),
        (["--top_k=40", "--temperature=0.8"], []),
        (["--top_k=40"], [_SAMPLES]),
        (["--top_k=40", f"--gin_param={_SAMPLES}"], []),
        (["--beams=4", "--temperature=0"], [_SAMPLES]),
        (["--beams=1", "--temperature=0.5"], [_BEAMS]),
        (["--top_k=40"], ["Bitransformer.decode.temperature = %warmth", "warmth = 0.5"]),
    ],
)
def test_flags_that_have_an_effect_are_taken(
    tmp_path: Path, arguments: list[str], bindings: list[str]
) -> None:
    flags.check_all(parse(tmp_path, *arguments, bindings=tuple(bindings)))


def test_a_gin_file_and_what_it_includes_count(tmp_path: Path) -> None:
    (tmp_path / "inner.gin").write_text(_SAMPLES)
    (tmp_path / "outer.gin").write_text(f"include '{tmp_path / 'inner.gin'}'\n")
    gin_file = f"--gin_file={tmp_path / 'outer.gin'}"
    flags.check_all(parse(tmp_path, "--top_k=3", gin_file))
    with pytest.raises(UserError, match="exclude each other"):
        flags.check_all(parse(tmp_path, "--beams=3", gin_file))


@pytest.mark.parametrize(
    "flag",
    ["--temperature=-1", "--temperature=nan", "--temperature=warm", "--top_k=0", "--beams=0"],
)
def test_values_out_of_range_are_refused(tmp_path: Path, capsys, flag: str) -> None:
    with pytest.raises(SystemExit):
        parse(tmp_path, flag)
    assert f"{flag.split('=')[1]!r} is not a" in capsys.readouterr().err


@pytest.mark.parametrize("factor", ["0", "-1", "nan", "much"])
def test_a_capacity_factor_is_above_0(tmp_path: Path, capsys, factor: str) -> None:
    with pytest.raises(SystemExit):
        parse(tmp_path, f"--capacity_factor={factor}")
    assert f"{factor!r} is not a number above 0" in capsys.readouterr().err
    assert parse(tmp_path, "--capacity_factor=inf").capacity_factor == float("inf")
