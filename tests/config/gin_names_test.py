"""The names that gin files can bind, and imports in gin files."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import gin
import pytest

from mtf_switch.config import gin_config, gin_files, gin_names
from mtf_switch.errors import UserError


def configurables() -> Iterator[tuple[str, str]]:
    """Yields (module, name) of everything that is decorated with @gin.configurable."""
    for package in gin_names.PACKAGES:
        for path in sorted((gin_files.REPOSITORY / package).rglob("*.py")):
            module = ".".join(path.relative_to(gin_files.REPOSITORY).with_suffix("").parts)
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                for decorator in getattr(node, "decorator_list", []):
                    if ast.unparse(decorator).startswith("gin.configurable"):
                        yield module, node.name


def test_every_configurable_of_the_project_is_registered() -> None:
    found = list(configurables())
    assert len(found) > 20
    listed = {module for module in gin_names.MODULES if gin_names.is_of_project(module)}
    assert {module for module, _ in found} == listed
    gin_names.register_all()
    registered = {
        (configurable.wrapped.__module__, configurable.wrapped.__name__)
        for _, configurable in gin.config._REGISTRY.items()
    }
    assert set(found) <= registered


def test_nothing_else_makes_gin_names() -> None:
    """Otherwise the test above would not see all of them."""
    for package in gin_names.PACKAGES:
        for path in (gin_files.REPOSITORY / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            for other in ("gin.register(", "external_configurable", "import configurable"):
                assert other not in text, path


IMPORTS = """
import mtf_switch.capacity as mtf_switch2
import tasks.no_such_module
from mtf_switch import ranks
import json
"""


def test_imports_of_the_project_are_skipped_and_never_written(tmp_path: Path) -> None:
    (tmp_path / "inner.gin").write_text(IMPORTS + "d_ff = 7\n")
    (tmp_path / "outer.gin").write_text(
        f"include {str(tmp_path / 'inner.gin')!r}\nimport mtf_switch.switch_ffn\n"
    )
    params = ["MIXTURE_NAME = 'a_task'", "import mtf_switch.router"]
    gin_config.parse(["models/switch_base.gin", str(tmp_path / "outer.gin")], params)
    assert gin.query_parameter("%d_ff") == 7
    lines = gin_config.to_text().splitlines()
    imports = [line for line in lines if line.startswith(("import", "from"))]
    assert "import json" in imports
    assert not [line for line in imports if "mtf_switch" in line or "tasks" in line]


@pytest.mark.parametrize("statement", ["import no.such", "from no import such", "import no"])
def test_an_import_that_fails_is_one_sentence_with_file_line_and_module(
    statement: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.gin").write_text(f"d_ff = 7\n{statement}\n")
    with pytest.raises(UserError) as caught:
        gin_config.parse([str(tmp_path / "mine.gin")], [])
    module = "no" if statement == "import no" else "no.such"
    assert str(caught.value) == (
        f"The gin files cannot be read: {module} cannot be imported (No module named 'no'). "
        f'In file "{tmp_path / "mine.gin"}", line 2 {statement}'
    )


def test_an_import_that_fails_in_the_configuration_of_a_checkpoint_is_skipped() -> None:
    text = "import t5.no_such\nrun_config.seed.value = 5\n"
    gin_config.parse([], [], gin_config.SavedText(text, skip_unknown=True))
    assert gin.query_parameter("run_config.seed.value") == 5


def test_old_full_names_are_found_and_unknown_ones_are_not() -> None:
    gin_config.parse([], ["mtf_switch.capacity.ExpertCapacity.group_size = 64"])
    assert gin.query_parameter("ExpertCapacity.group_size") == 64
    for name in ("mtf_switch.capacity.Capacity", "another.capacity.ExpertCapacity"):
        with pytest.raises(UserError, match=f"No configurable matching '{name}'"):
            gin_config.parse([], [f"{name}.group_size = 64"])
