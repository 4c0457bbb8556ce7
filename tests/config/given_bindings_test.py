"""Bindings of gin files, read as data."""

from __future__ import annotations

import pytest

from mtf_switch.config import given_bindings
from mtf_switch.errors import UserError


@pytest.mark.parametrize("others", [["itself.gin"], ["other.gin", "itself.gin"]])
def test_a_file_that_includes_itself_is_refused(others, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for file, included in zip(["itself.gin", *others], others):
        (tmp_path / file).write_text(f"include '{included}'\n")
    with pytest.raises(UserError, match=r"itself\.gin includes itself, directly or by way"):
        given_bindings.read(["itself.gin"], [])


def test_a_file_may_be_included_twice(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "value.gin").write_text("d_model = 3\n")
    (tmp_path / "twice.gin").write_text("include 'value.gin'\ninclude 'value.gin'\n")
    found = given_bindings.read(["twice.gin"], ["d_ff = 4"])
    assert [str(binding) for binding in found] == ["d_model = 3", "d_model = 3", "d_ff = 4"]
