"""gin's lookups: the fault without each repair, and the cure with it."""

import ast
import logging
import math

import gin
import pytest


@pytest.mark.parametrize("repaired", [False, True])
def test_gin_reports_no_error_for_a_place_without_the_file(monkeypatch, caplog, repaired):
    if not repaired:
        monkeypatch.setattr(gin.resource_reader, "logging", logging)
    assert not gin.resource_reader.system_path_file_exists("no/such/place.gin")
    assert ("Path not found" in caplog.text) == (not repaired)


@pytest.mark.parametrize("repaired", [False, True])
def test_gin_sees_no_package_in_a_folder_of_that_name(monkeypatch, tmp_path, repaired):
    (tmp_path / "outputs_of_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    readers = gin.resource_reader
    if repaired:
        assert not readers.system_path_file_exists("outputs_of_runs/demo.gin")
    else:
        unrepaired = readers._parse_config_path.__closure__[0].cell_contents
        monkeypatch.setattr(readers, "_parse_config_path", unrepaired)
        with pytest.raises(TypeError):
            readers.system_path_file_exists("outputs_of_runs/demo.gin")


@pytest.mark.parametrize("repaired", [False, True])
def test_gin_writes_an_infinite_number_as_it_reads_it(monkeypatch, repaired):
    if not repaired:
        monkeypatch.setattr(gin.config_parser, "ast", ast)
    gin.clear_config()
    gin.parse_config("singleton.constructor = [1e999, -1e999, 2.5]")
    written = gin.config_str()
    assert ("singleton.constructor = [1e999, -1e999, 2.5]" in written) == repaired
    if repaired:
        gin.clear_config()
        gin.parse_config(written)
        assert gin.query_parameter("singleton.constructor") == [math.inf, -math.inf, 2.5]


def test_gin_still_fails_for_a_file_that_is_nowhere():
    with pytest.raises(OSError, match=r"no/such/place\.gin"):
        gin.parse_config_file("no/such/place.gin")
