"""The table of formats: each has a source and a target, which are imported when needed."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

from mtf_switch.config.gin_files import REPOSITORY
from mtf_switch.conversion import formats
from mtf_switch.conversion.protocols import Source, Target, common_dtype
from mtf_switch.conversion.tensor_names import FORMATS


@pytest.mark.parametrize("format", FORMATS)
def test_the_classes_of_a_format_have_the_methods_of_the_protocols(format):
    classes = formats.load_classes(format)
    for protocol, cls in zip((Source, Target), classes):
        for name, method in inspect.getmembers(protocol, inspect.isfunction):
            if not name.startswith("_"):
                assert inspect.signature(getattr(cls, name)) == inspect.signature(method), name


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["bfloat16", "bfloat16"], "bfloat16"),
        (["bfloat16", "float32"], "float32"),
        (["float16"], "float32"),
    ],
)
def test_the_common_dtype_holds_all_of_them(names, expected):
    assert common_dtype(names) == expected


def test_nothing_heavy_is_imported_before_a_format_is_used():
    """Otherwise mistakes in a command would not be reported at once."""
    code = (
        "import sys, mtf_switch.conversion.convert\n"
        "found = {'tensorflow', 'jax', 'flax', 'tensorstore', 'safetensors'} & set(sys.modules)\n"
        "assert not found, found"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
