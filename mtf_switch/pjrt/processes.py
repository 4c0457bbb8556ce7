"""The processes that train one model together: on several hosts, or on one.

They find each other through a coordinator, a service in process 0. It also carries their
agreements: that all have reached a point, and at which step all stop.
"""

from __future__ import annotations

import dataclasses
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from mtf_switch.errors import UserError

# Seconds for which a process waits for the coordinator, and the coordinator for all processes.
_TIMEOUT = 120
# Seconds for which a process waits for the others to reach the same point, such as the first
# step. A large program takes minutes to compile, and the machines may differ.
_BARRIER_TIMEOUT = 3600
# Seconds after which JAX's own limit of time has failed. It holds for all but process 0.
_GRACE = 5
_STOP = "stop_at_step"


@dataclasses.dataclass(frozen=True)
class Processes:
    """The processes of a run.

    Attributes:
      coordinator: Address of the coordinator, such as "10.0.0.2:1234"; None for one process.
      count: The number of processes.
      index: The number of this process. Process 0 alone writes files.
      timeout: Seconds for which processes wait for each other at the start.
    """

    coordinator: str | None = None
    count: int = 1
    index: int = 0
    timeout: int = _TIMEOUT

    @property
    def writes(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.index == 0


def join(group: Processes) -> None:
    """Joins the other processes. It must be called before JAX looks for devices.

    Raises:
      UserError: If the coordinator does not answer, or not all processes join in time.
    """
    import jax
    from jax._src import distributed

    if group.count == 1 or distributed.global_state.client is not None:
        return
    _check_coordinator(group)
    # Collectives between the CPU devices of several processes.
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    reason = _call_in_time(
        lambda: jax.distributed.initialize(
            group.coordinator, group.count, group.index, initialization_timeout=group.timeout
        ),
        group.timeout + _GRACE,
    )
    if reason is not None:
        raise UserError(
            f"The {group.count} processes of --num_processes did not all reach the coordinator "
            f"{group.coordinator} within {group.timeout} seconds{reason}. Start every one, "
            "each with its own --process_id."
        )


def _call_in_time(function: Callable[[], None], seconds: float) -> str | None:
    """Calls a function. Returns why it failed, "" if it took too long, and None if neither."""
    outcome: list[str | None] = []

    def call():
        try:
            function()
            outcome.append(None)
        # The errors of JAX's distributed runtime have several types.
        except Exception as error:
            outcome.append(f" ({' '.join(str(error).split())[:200]})")

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    return outcome[0] if outcome else ""


def _check_coordinator(group: Processes) -> None:
    """Checks that the coordinator answers, before JAX, which would end the process, asks it."""
    host, _, port = group.coordinator.rpartition(":")
    if group.writes:
        try:
            with socket.create_server(("", int(port))):
                return
        except OSError as error:
            raise UserError(
                f"The coordinator cannot listen at --coordinator_address={group.coordinator}: "
                f"{error.strerror or error}. Choose another port."
            ) from error
    deadline = time.monotonic() + group.timeout
    while True:
        try:
            with socket.create_connection((host.strip("[]"), int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() > deadline:
                raise UserError(
                    f"No coordinator answers at --coordinator_address={group.coordinator} "
                    f"within {group.timeout} seconds ({error.strerror or error}). Process 0 is "
                    "the coordinator: start it, and check its address and port."
                ) from error
        time.sleep(0.2)


def wait_for_all(group: Processes, name: str) -> None:
    """Waits until all processes have reached the point with this name."""
    if group.count > 1:
        _get_client().wait_at_barrier(name, _BARRIER_TIMEOUT * 1000, None)


def all_have(group: Processes, name: str, value: str) -> bool:
    """Returns whether all processes have the same value.

    Args:
      group: The processes, which all call this.
      name: A name that no other call has.
      value: The value of this process.
    """
    if group.count == 1:
        return True
    client = _get_client()
    client.key_value_set(f"{name}/{group.index}", value)
    wait_for_all(group, name)
    return len({found for _, found in client.key_value_dir_get(name)}) == 1


def leave(group: Processes) -> None:
    """Leaves the other processes, to which this one would else look as if it had crashed."""
    import jax

    if group.count > 1:
        jax.distributed.shutdown()


def agree_to_stop(group: Processes, wants: bool, step: int, ahead: int) -> int | None:
    """Returns the step after which all processes stop, once one of them wants to.

    Every process asks before each step. No process is more than `ahead` steps before another,
    because all take part in the collectives of a step, so all learn of the step before they
    reach it.

    Args:
      group: The processes.
      wants: Whether this process wants to stop.
      step: The last step that this process has started.
      ahead: The largest number of steps between two processes.

    Returns:
      The step; None as long as no process wants to stop.
    """
    if group.count == 1:
        return step if wants else None
    client = _get_client()
    agreed = client.key_value_dir_get(_STOP)
    if not agreed and wants:
        client.key_value_set(f"{_STOP}/{group.index}", str(step + ahead + 1))
        agreed = client.key_value_dir_get(_STOP)
    # Each proposal is seen before anyone reaches its step, so all see the smallest.
    return min(int(value) for _, value in agreed) if agreed else None


def _get_client() -> Any:
    from jax._src import distributed

    return distributed.global_state.client
