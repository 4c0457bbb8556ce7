"""`make install` and the requirements, which newcomers meet first."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setuptools.config import pyprojecttoml

ROOT = Path(__file__).resolve().parents[2]
PYTHONS = ("3.9", "3.10", "3.11")
REQUIREMENTS = sorted(ROOT.glob("requirements*.*"))
MAKE = shutil.which("make")


def requirements(name: str, python: str) -> list[Requirement]:
    """The requirements of file `name` that hold on Linux with Python `python`."""
    environment = {
        "python_version": python,
        "python_full_version": f"{python}.1",
        "sys_platform": "linux",
    }
    lines = [line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines()]
    found = [Requirement(line) for line in lines if line]
    return [r for r in found if r.marker is None or r.marker.evaluate(environment)]


def pins(name: str, python: str) -> dict[str, str]:
    """Package name -> the one version that the resolved file `name` installs."""
    versions = {}
    for requirement in requirements(name, python):
        (specifier,) = requirement.specifier
        package = canonicalize_name(requirement.name)
        assert specifier.operator == "==", f"{requirement} is not a pin"
        assert package not in versions, f"{package} is pinned twice for Python {python}"
        versions[package] = specifier.version
    return versions


@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("name", ["requirements", "requirements-dev", "requirements-lab"])
def test_resolution_holds_everything_that_was_chosen(name: str, python: str) -> None:
    resolved = pins(f"{name}.txt", python)
    for chosen in requirements(f"{name}.in", python):
        version = resolved.get(canonicalize_name(chosen.name))
        assert version is not None, f"run `make lock`: {name}.txt lacks {chosen}"
        assert chosen.specifier.contains(version), (
            f"run `make lock`: {name}.txt has {chosen.name}=={version}, not {chosen}"
        )


@pytest.mark.parametrize("python", PYTHONS)
def test_development_tools_move_no_package_of_the_run_time(python: str) -> None:
    run_time, tools = pins("requirements.txt", python), pins("requirements-dev.txt", python)
    shared = run_time.keys() & tools.keys()
    assert {p: tools[p] for p in shared} == {p: run_time[p] for p in shared}


@pytest.mark.parametrize("python", PYTHONS)
def test_run_time_needs_neither_torch_nor_test_tools(python: str) -> None:
    unwanted = {"torch", "torchvision", "torchaudio", "pytest", "hypothesis", "ruff"}
    assert not unwanted & pins("requirements.txt", python).keys()


@pytest.mark.parametrize("python", PYTHONS)
def test_a_tpu_keeps_the_tensorflow_of_its_image_and_gets_everything_else(python: str) -> None:
    everything, tpu = pins("requirements.txt", python), pins("requirements-tpu.txt", python)
    left_out = everything.keys() - tpu.keys()
    assert tpu.items() <= everything.items()
    assert "tensorflow" in left_out
    assert not left_out & {"mesh-tensorflow", "t5", "seqio-nightly", "tensorflow-text", "numpy"}
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    for line in lines:
        name = line.split("==")[0]
        if name in left_out - {"tensorflow", "tensorflow-macos"}:
            assert line.endswith("# via tensorflow"), f"{name} is there for others, too"


@pytest.mark.parametrize("path", REQUIREMENTS, ids=lambda path: path.name)
def test_requirements_name_no_place_to_fetch_from(path: Path) -> None:
    for line in path.read_text().splitlines():
        for place in ("://", "file:", "--index", "--extra-index", "--find-links", " @ "):
            assert place not in line, f"{path.name}: {line}"


def test_every_folder_of_the_code_is_installed() -> None:
    settings = pyprojecttoml.read_configuration(ROOT / "pyproject.toml")
    code = [path for name in ("mtf_switch", "tasks") for path in (ROOT / name).rglob("*.py")]
    folders = {".".join(path.parent.relative_to(ROOT).parts) for path in code}
    assert set(settings["tool"]["setuptools"]["packages"]) == folders


def test_gin_folder_does_not_hide_the_gin_package() -> None:
    """Python prefers the installed `gin` only if the folder `gin/` has no Python files."""
    assert not list((ROOT / "gin").rglob("*.py"))
    spec = importlib.util.find_spec("gin")
    assert spec is not None
    assert spec.origin is not None, "`import gin` finds the folder, not the package"
    assert Path(spec.origin).parent != ROOT / "gin"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """The files that `make install` reads, and an empty `bin` as the only folder in PATH."""
    if MAKE is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "requirements.txt", "requirements-dev.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "bin").mkdir()
    for tool in ("cp", "grep", "mkdir", "rm", "touch"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool))
    return tmp_path


def put_command(clone: Path, name: str, script: str) -> None:
    path = clone / "bin" / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)


def make_install(clone: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MAKE, "install"],
        cwd=clone,
        env={"PATH": str(clone / "bin")},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_install_says_in_one_line_that_no_python_fits(clone: Path) -> None:
    for name in ("python3.11", "python3.9", "python3"):
        put_command(clone, name, "echo 'that version is not installed' >&2; exit 127")
    result = make_install(clone)
    assert result.returncode != 0
    assert result.stdout == ""
    message, make_own_line = result.stderr.splitlines()
    assert "Python 3.9, 3.10 or 3.11" in message
    assert "TensorFlow 2.15.1" in message
    assert make_own_line.startswith("make: ***")
    assert not (clone / ".venv").exists()


def test_install_takes_the_first_python_that_runs(clone: Path) -> None:
    put_command(clone, "python3.11", "exit 127")
    for name in ("python3.10", "python3.9"):
        put_command(clone, name, f'[ "$1" = -c ] || {{ echo {name} "$@"; exit 1; }}')
    assert make_install(clone).stdout == "python3.10 -m venv --clear .venv\n"


def test_interrupted_install_starts_from_an_empty_venv_again(clone: Path) -> None:
    put_command(clone, "pip-that-dies", "exit 1")
    make_venv = "echo made; mkdir -p .venv/bin; cp bin/pip-that-dies .venv/bin/python"
    put_command(clone, "python3.11", f'[ "$1" = -c ] || {{ {make_venv}; }}')
    for _ in range(2):
        result = make_install(clone)
        assert result.returncode != 0
        made, installing = result.stdout.splitlines()
        assert made == "made"
        assert installing.startswith("Installing the pinned packages")
        assert not list(clone.glob(".venv/.*installed"))


def test_second_install_does_nothing(clone: Path) -> None:
    (clone / ".venv").mkdir()
    for stamp in (".packages-installed", ".installed"):
        (clone / ".venv" / stamp).touch()
    result = make_install(clone)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
