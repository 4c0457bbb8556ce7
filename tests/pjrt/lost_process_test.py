"""How a process ends after another one of its run is gone; see also `processes_test.py`."""

from __future__ import annotations

import atexit
import subprocess
import sys

import pytest
from jax._src import api
from jax._src.lib import xla_client

from mtf_switch.errors import UserError
from mtf_switch.pjrt import lost_process
from mtf_switch.pjrt.processes import Processes

ONE, TWO = Processes(), Processes("localhost:1", 2, 1)
LOST = xla_client.XlaRuntimeError("FAILED_PRECONDITION: Gloo: Connection closed by peer")
TOO_LARGE = xla_client.XlaRuntimeError("RESOURCE_EXHAUSTED: Out of memory")


@pytest.fixture
def unregistered(monkeypatch) -> list:
    """The functions that are not called at the end of the process any more."""
    found = []
    monkeypatch.setattr(atexit, "unregister", found.append)
    return found


def test_a_lost_connection_is_one_sentence(unregistered):
    with (
        pytest.raises(
            UserError, match=r"Another process .* ended.*closed by peer.*again: they"
        ),
        lost_process.explain(TWO),
    ):
        raise LOST
    # JAX's own end of the process would wait for the other one.
    assert unregistered == [api.clean_up]


@pytest.mark.parametrize(
    ("group", "error", "expected"),
    [(TWO, TOO_LARGE, [api.clean_up]), (TWO, KeyError(), [api.clean_up]), (ONE, LOST, [])],
)
def test_other_errors_are_unchanged(unregistered, group, error, expected):
    with pytest.raises(type(error)) as raised, lost_process.explain(group):
        raise error
    assert raised.value is error
    assert unregistered == expected


def test_an_abort_in_a_thread_of_jax_is_one_sentence():
    code = (
        "import os, threading\n"
        "from mtf_switch.pjrt import lost_process\n"
        "lost_process.explain_abort()\n"
        "threading.Thread(target=os.abort).start()\n"
        "threading.Event().wait()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "another process of the run has ended" in ended.stderr
    assert "Start all processes again" in ended.stderr
