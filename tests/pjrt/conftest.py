"""Settings of the tests of PJRT."""

from __future__ import annotations

import pytest
import quick_compilation


@pytest.fixture(scope="session", autouse=True)
def _compile_quickly():
    with quick_compilation.compile_quickly():
        yield
