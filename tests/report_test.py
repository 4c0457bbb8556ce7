"""Reports: the files that they write, and the content of the files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mtf_switch import report, whole_file
from mtf_switch.errors import UserError


def draw_line(figure) -> None:
    figure.set_size_inches(2, 1)
    figure.subplots().plot([0, 1], [1, 0])


def test_a_report_writes_its_data_documents_and_plots(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "folder"
    result = report.Report(
        "found", "on the screen", {"a": [1, 2]}, {"found.md": "# é\n"}, {"line.png": draw_line}
    )
    result.write(str(folder))
    names = sorted(path.name for path in folder.iterdir())
    assert names == ["found.json", "found.md", "line.png"]
    text = (folder / "found.json").read_text()
    assert text == result.to_json() + "\n"
    assert json.loads(text) == {"a": [1, 2]}
    assert (folder / "found.md").read_text(encoding="utf-8") == "# é\n"
    assert (folder / "line.png").read_bytes().startswith(b"\x89PNG")


def test_a_plot_has_the_size_that_was_set_at_120_dots_per_inch() -> None:
    png = report.render_png(draw_line)
    # A PNG file has its width and height in bytes 16 to 24.
    assert (int.from_bytes(png[16:20], "big"), int.from_bytes(png[20:24], "big")) == (240, 120)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"The folder .*file cannot be written"):
        report.Report("found", "", {}).write(str(tmp_path / "file"))


def test_a_report_that_is_there_is_not_replaced(tmp_path: Path, monkeypatch) -> None:
    report.check_is_new(str(tmp_path), "found")
    (tmp_path / "found.json").write_text("")
    with pytest.raises(UserError, match=r"found.json already exists"):
        report.check_is_new(str(tmp_path), "found")
    monkeypatch.setattr(whole_file, "exists", "gs://bucket/found.json".__eq__)
    with pytest.raises(UserError, match=r"gs://bucket/found.json already exists"):
        report.check_is_new("gs://bucket", "found")


def test_a_report_without_plots_does_not_import_matplotlib() -> None:
    program = (
        "import sys; from mtf_switch import report; report.Report('a', '', {}).to_json(); "
        "sys.exit('matplotlib' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
