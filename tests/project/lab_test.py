"""The lab of docs/lab: its notebook runs, shows what its text says, and has answers."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

LAB = Path(__file__).parents[2] / "docs" / "lab"
NOTEBOOK = LAB / "switch_layer.ipynb"
# A part of a cell -> a check that is executed after it, in the notebook's own kernel.
CHECKS = {
    "by_hand = ": "np.testing.assert_allclose(by_hand, call.outputs[token], rtol=1e-5)\n"
    "assert not call.outputs[~call.kept].any() and not call.kept.all()",
    "for experts in (4, 16, 64):": "assert np.all(np.diff(dropped) <= 0)",
    "uneven = Topics.make": "busiest = [run.load[-20:].mean(0).max() for run in runs.values()]\n"
    "assert busiest[0] > 2 * busiest[1]\n"
    "assert runs[0.01].final_loss < runs[0.0].final_loss",
    "dense = lab.train": "assert runs[0].final_loss > dense.final_loss > runs[-1].final_loss\n"
    "assert runs[-1].dropped[-50:].max() == 0",
    "costs = [": "assert costs[-1].parameters > 60 * dense.parameters\n"
    "assert costs[-1].temporary_bytes < 1.5 * dense.temporary_bytes",
    "for scale in (1, 4, 16):": "assert 0 < other < 10",
    'label = f"s = {scale}"': "assert scale == 10 and min(run.final_loss for run in runs) > 10",
    "tables = {": "main = {name: t.max(axis=1).mean() for name, t in tables.items()}\n"
    'assert main["trained router"] > 1.5 * main["shuffled"]',
}


@pytest.fixture(scope="module")
def cells() -> list[dict]:
    return json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]


def read_text(cell: dict) -> str:
    return "".join(cell["source"])


def test_each_section_ends_with_two_questions_and_each_question_has_an_answer(cells) -> None:
    sections = {}
    for cell in cells:
        text = read_text(cell)
        if cell["cell_type"] == "markdown" and text.startswith("## "):
            number, title = re.match(r"## (\d+)\. (.*)", text).groups()
            sections[number] = (title, [])
        elif sections:
            sections[number][1].extend(re.findall(r"\*\*Question ([\d.]+)\.\*\*", text))
    answers = (LAB / "answers.md").read_text(encoding="utf-8")
    assert len(sections) == 8
    for number, (title, questions) in sections.items():
        assert questions == [f"{number}.1", f"{number}.2"]
        section = answers.split(f"## {number}. {title}\n")[1].split("\n## ")[0]
        assert re.findall(r"\*\*([\d.]+)\*\*", section) == questions


def test_a_forge_shows_the_results_and_the_file_stays_small(cells) -> None:
    """The first cell imports TensorFlow's repairs, and prints nothing."""
    code = [cell for cell in cells if cell["cell_type"] == "code"]
    silent = [cell for cell in code if not cell["outputs"]]
    assert [cell for cell in code if "lab." in read_text(cell)]
    assert all("import" in read_text(cell) for cell in silent)
    outputs = [output for cell in code for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 6
    assert NOTEBOOK.stat().st_size < 300_000
    assert str(Path.home()) not in NOTEBOOK.read_text(encoding="utf-8")


def test_every_check_belongs_to_one_cell(cells) -> None:
    code = [read_text(cell) for cell in cells if cell["cell_type"] == "code"]
    for part in CHECKS:
        assert len([text for text in code if part in text]) == 1, part


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_its_text_says() -> None:
    nbclient = pytest.importorskip("nbclient", reason="`make test-all` installs nbclient")
    nbformat = pytest.importorskip("nbformat")
    notebook = nbformat.read(NOTEBOOK, 4)
    checked = []
    for cell in notebook.cells:
        checked.append(cell)
        for part, check in CHECKS.items():
            if cell.cell_type == "code" and part in cell.source:
                checked.append(nbformat.v4.new_code_cell(check))
    notebook.cells = checked
    nbclient.NotebookClient(
        notebook, timeout=600, resources={"metadata": {"path": str(LAB)}}
    ).execute()
