"""A temporary folder stays if its log is needed."""

from __future__ import annotations

import os

import pytest

from mtf_switch.errors import UserError
from mtf_switch.reproduction import temporary_folder


def test_a_folder_stays_only_after_a_failure_whose_log_it_has() -> None:
    with temporary_folder.make("test") as folder:
        assert os.path.isdir(folder)
    assert not os.path.exists(folder)
    with pytest.raises(KeyboardInterrupt), temporary_folder.make("test") as folder:
        raise KeyboardInterrupt
    assert not os.path.exists(folder)
    with pytest.raises(UserError), temporary_folder.make("test") as folder:
        raise UserError(f"See {folder}/log.txt")
    os.rmdir(folder)
