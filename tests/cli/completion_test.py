"""The completion scripts that --print_completion writes."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from mtf_switch.cli import completion, main


def print_script(shell: str, capsys, monkeypatch) -> str:
    monkeypatch.setattr("sys.argv", ["mtf_switch"])
    with pytest.raises(SystemExit) as exit_:
        main.main([f"--print_completion={shell}"])
    assert exit_.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_a_script_has_commands_and_flags(shell: str, capsys, monkeypatch) -> None:
    script = print_script(shell, capsys, monkeypatch)
    assert "superglue" in script
    assert "checkpoint_steps" in script


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not installed")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("fine",), {"finetune"}),
        (("eval", "--eval"), {"--eval_batches"}),
        (("convert", "--from", ""), {"hf", "t5x", "mtf"}),
        (("train", "--model_dir", "fol"), {"folder"}),
        (("predict", "--input_file", "f"), {"folder", "file.txt"}),
    ],
)
def test_bash_completes(words, expected, capsys, monkeypatch, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file.txt").touch()
    script = print_script("bash", capsys, monkeypatch)
    line = ["mtf_switch", *words]
    array = " ".join(f"'{word}'" for word in line)
    program = (
        f"{script}\nCOMP_WORDS=({array}); COMP_CWORD={len(words)}\n"
        "function=$(complete -p mtf_switch | sed 's/.*-F \\([^ ]*\\) .*/\\1/')\n"
        f"$function mtf_switch '{words[-1]}' '{line[-2]}'\n"
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert {word.strip().rstrip("/") for word in done.stdout.split("\n") if word} == expected
