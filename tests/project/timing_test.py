"""The worker processes of the benchmarks."""

from __future__ import annotations

import sys
import time

import pytest
import timing

from mtf_switch.errors import UserError

# It ends instead of waiting for ever.
_WARNS_A_LOT = (
    "import signal, sys; signal.alarm(60); sys.stderr.write('a warning\\n' * 20_000); "
)


def start(code: str) -> timing.Competitor:
    return timing.time_worker([sys.executable, "-c", code], {}, None, "the worker")


def test_a_worker_may_print_more_warnings_than_a_pipe_holds():
    worker = start(
        f'{_WARNS_A_LOT}print(\'{{"torch": "2"}}\', flush=True)\n'
        "for _ in sys.stdin: print(0.25, flush=True)"
    )
    assert worker.versions == {"torch": "2"}
    assert [worker.seconds(), worker.seconds()] == [0.25, 0.25]
    worker.close()


def test_the_last_line_of_a_worker_that_fails_is_its_reason():
    with pytest.raises(
        UserError, match=r"^the worker cannot run the benchmark: it has no torch\.$"
    ):
        start(f"{_WARNS_A_LOT}sys.exit('it has no torch')")


def test_a_worker_that_dies_between_two_steps_is_named_with_its_reason():
    worker = start(
        "import sys; print('{}', flush=True); sys.stdin.readline(); print(0.25, flush=True); "
        "sys.exit('it has no memory')"
    )
    assert worker.seconds() == 0.25
    time.sleep(1)  # It has ended by then, and its pipe is closed.
    with pytest.raises(
        UserError, match=r"^the worker cannot run the benchmark: it has no memory\.$"
    ):
        worker.seconds()
    worker.close()
