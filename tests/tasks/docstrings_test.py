from __future__ import annotations

from pathlib import Path

import pytest

from tasks import docstrings
from tasks.docstrings import Docstrings

PROSE = (
    "Returns the number of the {} that is given, or zero if there is none of that kind in "
    "the list, as it is for every list that was not filled by the caller."
)


def install(site: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Lays out an installed distribution as pip does."""
    record = [f"{name}-{version}.dist-info/METADATA,,"]
    for path, content in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(content)
        record.append(f"{path},,")
    info = site / f"{name}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "RECORD").write_text("\n".join(record))


def module(of: str) -> str:
    return f'"""{PROSE.format(of)}"""\nraise SystemExit("imported")\n'


@pytest.fixture
def site(tmp_path: Path) -> Path:
    folder = tmp_path / "site-packages"
    folder.mkdir()
    install(folder, "Zeta_Lib", "2.0", {"zeta/b.py": module("b"), "zeta/a.py": module("a")})
    tests = {"alpha/tests/x.py": module("test"), "alpha/test_y.py": module("test")}
    other = {"alpha/data.txt": module("data"), "alpha/latest.py": module("latest")}
    install(folder, "alpha", "1.0", {**tests, **other, "zeta/b.py": module("b")})
    install(folder, "unpinned", "1.0", {"unpinned.py": module("unpinned")})
    return folder


@pytest.fixture
def requirements(tmp_path: Path) -> Path:
    file = tmp_path / "requirements.txt"
    file.write_text("zeta.lib==2.0\nalpha==1.0  # via zeta-lib\nabsent==3.0\n")
    return file


def test_docstrings_come_by_package_and_file_without_importing_or_reading_tests(
    site, requirements
):
    found = list(Docstrings(requirements, (str(site),)).documents())
    # zeta/b.py belongs to both packages and is read once, for the first of them.
    assert found == [PROSE.format(name) for name in ("latest", "b", "a")]


def test_order_does_not_depend_on_how_the_files_are_shared_out(site, requirements, monkeypatch):
    source = Docstrings(requirements, (str(site),))
    in_one_run = list(source.documents())
    monkeypatch.setattr(docstrings, "_FILES_PER_RUN", 1)
    assert list(source.documents()) == in_one_run


def test_identity_names_the_installed_versions_and_changes_with_them(
    site, requirements, tmp_path
):
    before = Docstrings(requirements, (str(site),)).identity()
    assert before["packages"] == {"alpha": "1.0", "zeta-lib": "2.0"}
    newer = tmp_path / "newer"
    newer.mkdir()
    install(newer, "alpha", "1.1", {})
    after = Docstrings(requirements, (str(newer), str(site))).identity()
    assert after["packages"] == {"alpha": "1.1", "zeta-lib": "2.0"}
