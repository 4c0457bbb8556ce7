"""All benchmarks in one command, and the page that is made from their results."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import kept_results
import page_table
import pytest
import run_all

from mtf_switch import machine

ORIGIN = {"command": "python x", "commit": "c0ffee", "machine": "M", "malloc": "default"}
MEMORY = {"competitor": "dense", "experts": 1, "process_bytes": 3 * 10**9}
MEMORY |= {"step_bytes": 10**9, "versions": {"numpy": "1"}, **ORIGIN}


def test_all_benchmarks_make_one_page_and_a_failure_stops_none(capsys, monkeypatch, tmp_path):
    """The benchmarks here measure nothing."""
    seen = []

    def run(command, **options):
        del options
        seen.append(command[2:])
        fails = "train_step" in command[1]
        return types.SimpleNamespace(
            returncode=fails, stdout="" if fails else json.dumps(MEMORY)
        )

    monkeypatch.setattr(subprocess, "run", run)
    flags = ["--only", "memory", "step", "--hf_python=x", "--repetitions=2"]
    assert run_all.main([*flags, f"--output_dir={tmp_path}"]) == 1
    usual = ["--repetitions=2", "--hf_python=x", "--competitors", "dense", "gather"]
    experts = ["--experts", "8", "32", "128", "256", "--repetitions=3"]
    assert seen == [
        ["--json", *usual, "einsum", "upstream", "hf_dense", "hf"],
        ["--json", *experts, *usual, "upstream", "hf_dense", "hf"],
    ]
    commands = {b.name: b.command("x", 2)[2:] for b in run_all.BENCHMARKS}
    assert commands["decode"][2:] == ["--hf_python=x", "--competitors", "this", "hf"]
    assert commands["pjrt"][-1] == "--rounds=2"
    page = (tmp_path / "benchmarks.md").read_text()
    out, err = capsys.readouterr()
    assert page in out
    assert "| dense      | 1       | 3.00" in page
    assert "`python x`; commit c0ffee; M; numpy 1; GLIBC_TUNABLES: default." in page
    assert json.loads((tmp_path / "memory.json").read_text()) == [MEMORY]
    assert "these benchmarks failed: step" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["benchmarks.md", "memory.json"]


def test_a_line_that_is_not_a_result_is_a_failure_with_a_message(capsys, monkeypatch):
    """An exception would end the benchmarks that come after it, too."""
    answer = types.SimpleNamespace(returncode=0, stdout="Downloading ...\n{}\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    (memory,) = (b for b in run_all.BENCHMARKS if b.name == "memory")
    assert run_all.run(memory, None, None) == []
    assert "memory printed 'Downloading ...', not JSON" in capsys.readouterr().err


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with the tables of three benchmarks, and results of one of them."""
    path = tmp_path / "page.md"
    names = ("step", "memory", "decode")
    old = "".join(f"<!-- table: {name} -->\nold {name}\n{page_table.END}\n" for name in names)
    path.write_text(f"Before.\n{old}After.\n")
    monkeypatch.setattr(run_all, "PAGE", path)
    monkeypatch.setattr(kept_results, "FOLDER", tmp_path / "kept")
    monkeypatch.setattr(machine, "find_commit", lambda: "c0ffee")
    monkeypatch.setattr(kept_results.measure, "name_machine", lambda: "M")
    return path


def test_the_page_gets_the_tables_of_what_has_finished(page, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(run_all, "run", lambda b, *_: [MEMORY] if b.name == "memory" else [])
    flags = ["--page", f"--output_dir={tmp_path / 'out'}"]
    assert run_all.main([*flags, "--only", "step", "memory"]) == 1
    assert "failed: step. Their tables of docs/performance.md are as before." in (
        capsys.readouterr().err
    )
    text = page.read_text()
    assert "| dense      | 1       | 3.00" in text
    assert text.startswith("Before.\n<!-- table: step -->\nold step\n<!-- end")
    assert text.endswith(f"old decode\n{page_table.END}\nAfter.\n")
    assert "old memory" not in text
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["memory.json"]
    assert kept_results.read("memory") == [MEMORY]
    page.write_text(text.replace("3.00", "4.00"))
    assert run_all.main(["--tables_only"]) == 0
    assert page.read_text() == text


@pytest.mark.parametrize(
    ("commit", "name", "message"),
    [
        ("c0ffee and changes", "M", "the code is that of 'c0ffee and changes'. Commit"),
        ("unknown", "M", "the code is that of 'unknown'"),
        (
            "c0ffee1",
            "M",
            "Those of memory are of commit c0ffee on M, and this is commit c0ffee1",
        ),
        ("c0ffee", "N", "are of commit c0ffee on M, and this is commit c0ffee on N. Measure"),
    ],
)
def test_a_page_is_of_one_commit_and_one_machine(
    page, monkeypatch, capsys, commit, name, message
):
    kept_results.write(kept_results.FOLDER, "memory", [MEMORY])
    monkeypatch.setattr(machine, "find_commit", lambda: commit)
    monkeypatch.setattr(kept_results.measure, "name_machine", lambda: name)
    monkeypatch.setattr(run_all, "run", lambda *_: pytest.fail("nothing is measured"))
    text = page.read_text()
    assert run_all.main(["--page", "--only", "step"]) == 2
    assert message in capsys.readouterr().err
    assert page.read_text() == text


def test_results_that_are_measured_again_may_be_of_another_commit(page, monkeypatch, tmp_path):
    kept_results.write(kept_results.FOLDER, "memory", [{**MEMORY, "commit": "0ld"}])
    monkeypatch.setattr(run_all, "run", lambda *_: [MEMORY])
    flags = ["--page", f"--output_dir={tmp_path / 'out'}", "--only", "memory"]
    assert run_all.main(flags) == 0
    assert "commit c0ffee" in page.read_text()


def test_options_that_only_a_measurement_needs_are_refused_without_one(capsys):
    with pytest.raises(SystemExit):
        run_all.main(["--tables_only", "--hf_python", sys.executable])
    assert "--tables_only measures nothing" in capsys.readouterr().err


def test_the_documentation_has_the_tables_of_the_results_that_are_kept():
    """Its results are of one commit and one machine."""
    text = run_all.PAGE.read_text(encoding="utf-8")
    known = {benchmark.name for benchmark in run_all.BENCHMARKS}
    assert {path.stem for path in kept_results.FOLDER.iterdir()} <= known
    origins = set()
    for benchmark in run_all.BENCHMARKS:
        start = f"<!-- table: {benchmark.name} -->\n"
        assert text.count(start) == 1
        results = kept_results.read(benchmark.name)
        origins |= {(result["commit"], result["machine"]) for result in results}
        if results:
            table = run_all.format_table(benchmark, results)
            assert f"{start}{table}\n{page_table.END}" in text, "run run_all.py --tables_only"
    assert len(origins) <= 1
