"""The wheel works in an environment that has the pinned packages and no copy of the repository.

`make test-all` makes such an environment from requirements.txt, and names its Python in
LOCKED_PYTHON. Without it, a new environment reads the packages of the one that runs the tests.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import gin
import pytest
from tiny_run import made_up_text

from mtf_switch.config import gin_files

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel of the files that git tracks, or would track."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for name in listed:
        if name.startswith(("mtf_switch/", "tasks/", "gin/")) or "/" not in name:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source")
    (path,) = folder.glob("*.whl")
    return path


def pip(*arguments: object, python: str | Path = sys.executable) -> None:
    subprocess.run(
        [python, "-m", "pip", "-qq", "--disable-pip-version-check", *map(str, arguments)],
        check=True,
    )


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory) -> Path:
    """The folder of the commands of an environment with the wheel and the pinned packages."""
    if "LOCKED_PYTHON" in os.environ:
        python = Path(os.environ["LOCKED_PYTHON"]).absolute()
        pip("install", "--no-deps", "--no-index", "--force-reinstall", wheel, python=python)
        return python.parent
    environment = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
    (site_packages,) = environment.glob("lib/python*/site-packages")
    # Files such as those of an editable install are read only in an environment's own folder.
    (site_packages / "pinned.pth").write_text(str(Path(gin.__file__).parents[1]) + "\n")
    pip("install", "--no-deps", "--no-index", wheel, python=f"{environment}/bin/python")
    return environment / "bin"


@pytest.mark.slow
def test_a_wheel_has_every_gin_file_and_module(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    files = [p.relative_to(ROOT) for p in gin_files.GIN_FOLDER.rglob("*.gin")]
    assert {f"mtf_switch/{path}" for path in files} <= names
    modules = [
        p.relative_to(ROOT) for f in ("mtf_switch", "tasks") for p in (ROOT / f).rglob("*.py")
    ]
    assert set(map(str, modules)) <= names
    assert not [name for name in names if name.startswith(("tests", "benchmarks", "gin/"))]


@pytest.mark.slow
@pytest.mark.skipif("LOCKED_PYTHON" not in os.environ, reason="needs the locked environment")
def test_the_lock_has_every_package_that_the_wheel_requires(installed: Path) -> None:
    pip("check", python=installed / "python")
    listed = subprocess.run(
        [str(installed / "python"), "-m", "pip", "list", "--format=freeze"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    # Nothing of the environment that runs the tests is in it.
    assert "mtf-switch==" in listed
    assert "pytest==" not in listed


@pytest.mark.slow
def test_the_console_command_works_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "corpus.txt").write_text(made_up_text(120_000))
    (tmp_path / "lines.txt").write_text("ba do <extra_id_0>\n")
    environment = {**os.environ, "MTF_SWITCH_CACHE": str(tmp_path / "cache")}
    environment.pop("PYTHONPATH", None)

    def run(*arguments: str) -> str:
        return subprocess.run(
            [str(installed / "mtf_switch"), *arguments],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    assert "(commit unknown)" in run("--version")
    code = "import mtf_switch, tasks; print(mtf_switch.__file__, tasks.__file__)"
    printed = subprocess.run(
        [str(installed / "python"), "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert all(str(installed.parent) in path for path in printed.split())
    assert "step 3" in run(
        "train",
        "--gin_file=models/switch_tiny.gin",
        "--gin_file=gin/runs/embedded.gin",
        "--corpus=corpus.txt",
        "--model_dir=run",
        "--steps=3",
        "--gin_param=text_files.vocab_size = 300",
    )
    run("predict", "--model_dir=run", "--input_file=lines.txt", "--output_file=out.txt")
    assert len((tmp_path / "out.txt").read_text().splitlines()) == 1
