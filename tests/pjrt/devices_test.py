"""What stops a run before its program is compiled: too few devices, no plugin, no coordinator."""

from __future__ import annotations

import socket
import threading
import time
import types

import numpy as np
import pytest

from mtf_switch.errors import UserError
from mtf_switch.pjrt import devices, processes
from mtf_switch.pjrt.device_mesh import DeviceMesh
from mtf_switch.pjrt.processes import Processes

ONE = Processes()


def test_the_cores_of_a_mesh_are_devices():
    found = devices.find([("data", 2), ("model", 4)], ONE)
    assert found.shape == (2, 4)
    assert len({device.id for device in found.flat}) == 8
    assert devices.get_platform(found) == "cpu"


def test_a_mesh_of_one_core_is_one_device():
    assert devices.find([], ONE).shape == (1,)


def test_tensorflow_does_not_take_the_memory_of_gpus(monkeypatch):
    import tensorflow as tf

    from mtf_switch.pjrt import runtime

    visible = []
    monkeypatch.setattr(tf.config, "set_visible_devices", lambda *args: visible.append(args))
    runtime.PjrtRuntime(ONE)
    assert visible == [([], "GPU")]


@pytest.mark.parametrize(
    ("platform", "on_tpu"), [("cpu", False), ("gpu", False), ("tpu", True)]
)
def test_a_gpu_gets_the_program_of_a_cpu(platform, on_tpu):
    """`benchmarks/portable_step.py` relies on it."""
    from mtf_switch.pjrt import runtime

    devices_ = np.array([types.SimpleNamespace(platform=platform)])
    target = runtime._find_target(DeviceMesh(("all",), devices_))
    assert (target.on_tpu, target.compiled) == (on_tpu, not on_tpu)


def test_a_mesh_larger_than_the_devices_is_refused():
    with pytest.raises(UserError, match="has 16 cores, but JAX finds only 8 CPU devices"):
        devices.find([("data", 16)], ONE)


def test_processes_that_cannot_share_a_mesh_are_refused():
    with pytest.raises(UserError, match="8 cores, which 3 processes cannot share equally"):
        devices.find([("data", 8)], Processes("localhost:1234", 3, 0))


def test_an_accelerator_without_its_plugin_is_refused(monkeypatch):
    """JAX would use the processor, and only say so in its log."""
    monkeypatch.delenv("JAX_PLATFORMS")
    monkeypatch.setattr(devices.glob, "glob", lambda path: ["x"] * ("nvidia" in path))
    with pytest.raises(UserError, match="has a GPU, but JAX has no plugin for it"):
        devices.find([], ONE)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    assert devices.find([], ONE).size == 1


def test_a_platform_that_jax_does_not_have_is_refused(monkeypatch):
    import jax

    def refuse():
        raise RuntimeError("Unable to initialize backend 'cuda': no such platform")

    monkeypatch.setenv("JAX_PLATFORMS", "cuda")
    monkeypatch.setattr(jax, "devices", refuse)
    with pytest.raises(UserError, match="JAX cannot use the devices that JAX_PLATFORMS='cuda'"):
        devices.find([], ONE)


def test_a_coordinator_that_does_not_answer_is_refused_in_time():
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    began = time.monotonic()
    group = Processes(f"localhost:{port}", 2, 1, timeout=1)
    with pytest.raises(UserError, match="No coordinator answers at --coordinator_address"):
        processes.join(group)
    assert time.monotonic() - began >= 1


def test_a_port_that_is_taken_is_refused():
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(UserError, match="coordinator cannot listen"):
            processes.join(Processes(f"localhost:{port}", 2, 0, timeout=1))


def test_a_process_that_nobody_joins_is_refused_in_time(monkeypatch):
    """JAX's own limit of time does not hold for the coordinator."""
    import jax

    def wait_for_ever(*arguments, **options):
        del arguments, options
        threading.Event().wait()

    monkeypatch.setattr(jax.distributed, "initialize", wait_for_ever)
    monkeypatch.setattr(processes, "_GRACE", 0)
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(UserError, match="2 processes of --num_processes did not all reach"):
        processes.join(Processes(f"localhost:{port}", 2, 0, timeout=1))


class _Store:
    """The keys and values of a coordinator."""

    def __init__(self):
        self.values = {}

    def key_value_dir_get(self, folder):
        return [item for item in self.values.items() if item[0].startswith(folder)]

    def key_value_set(self, key, value):
        self.values[key] = value

    def wait_at_barrier(self, name, timeout, processes):
        del name, timeout, processes


def test_all_processes_stop_at_the_same_step(monkeypatch):
    store = _Store()
    monkeypatch.setattr(processes, "_get_client", lambda: store)
    groups = [Processes("localhost:1", 2, index) for index in range(2)]
    ask = processes.agree_to_stop
    assert ask(groups[0], False, 10, ahead=4) is None
    assert ask(groups[1], True, 8, ahead=4) == 13
    assert ask(groups[0], True, 12, ahead=4) == 13
    assert ask(groups[0], False, 13, ahead=4) == 13


def test_processes_see_whether_all_have_the_same_value(monkeypatch):
    store = _Store()
    monkeypatch.setattr(processes, "_get_client", lambda: store)
    groups = [Processes("localhost:1", 2, index) for index in range(2)]
    assert processes.all_have(groups[0], "batch of step 1", "a")
    assert processes.all_have(groups[1], "batch of step 1", "a")
    assert not processes.all_have(groups[1], "batch of step 1", "b")
    assert processes.all_have(ONE, "batch of step 1", "c")


def test_a_process_alone_stops_at_once():
    assert processes.agree_to_stop(ONE, False, 3, ahead=4) is None
    assert processes.agree_to_stop(ONE, True, 3, ahead=4) == 3
