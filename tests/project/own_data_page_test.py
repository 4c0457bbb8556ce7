"""docs/own_data.md: the task in Python has the examples that the page describes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import seqio

from tasks import own_metrics
from tasks.labelled_files import ENDINGS

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "own_data.md").read_text("utf-8")


def test_the_task_in_python(text_vocabulary: Path, tmp_path: Path, monkeypatch) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.txt").write_text("This IS\nKnown\n")
    monkeypatch.chdir(tmp_path)
    path = "runs/base_8/vocabulary.model"
    assert path in program
    exec(program.replace(path, str(text_vocabulary)), {})
    task = seqio.TaskRegistry.get("lower_case")
    try:
        examples = list(
            task.get_dataset({"inputs": 32, "targets": 32}, "train").as_numpy_iterator()
        )
        texts = {e["targets_pretokenized"].decode(): e["inputs_pretokenized"] for e in examples}
        assert texts == {"this is": b"lower case: This IS", "known": b"lower case: Known"}
        assert all(example["targets"][-1] == 1 for example in examples)
    finally:
        seqio.TaskRegistry.remove("lower_case")


@pytest.mark.parametrize("name", [*own_metrics.METRICS, *ENDINGS])
def test_the_page_has_every_metric_and_format(name: str) -> None:
    assert f"`{name}`" in PAGE
