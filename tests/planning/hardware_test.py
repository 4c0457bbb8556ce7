"""Times against numbers derived by hand from the sources that gin/hardware/ cites."""

from __future__ import annotations

import types

import pytest
from pod_hardware import read_hardware

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import UserError
from mtf_switch.planning import hardware
from mtf_switch.planning.communication import ALL_REDUCE, ALL_TO_ALL, PERMUTE, Collective


@pytest.mark.parametrize("name", ["tpu_v3", "tpu_v4"])
def test_a_pods_peak_and_all_reduce_are_those_of_its_source(name):
    """What cloud.google.com/tpu/docs states of a whole pod follows from the file's chips."""
    pod = read_hardware(name)
    chips = max(pod.slices) / pod.cores_per_chip
    petaflops, terabytes = {"tpu_v3": (126e15, 340e12), "tpu_v4": (1.1e18, 1.1e15)}[name]
    assert chips * pod.chip_flops == pytest.approx(petaflops, rel=0.03)
    assert chips * pod.chip_link_bandwidth == pytest.approx(terabytes, rel=0.03)


def test_exchanges_take_as_long_as_their_wires_say():
    pod = read_hardware()
    reduce_ = Collective(ALL_REDUCE, "data", 2048, "float32", (2**20,), "backward", 10)
    # Ten times 4 MiB by a ring; two cores share the links of a chip.
    seconds = 10 * 2 * (2047 / 2048) * 2**22 * 2 / pod.chip_link_bandwidth
    assert pod.collective_seconds(reduce_, 2048) == pytest.approx(seconds)
    # Two chips are joined in one of two dimensions.
    pair = Collective(ALL_REDUCE, "model", 4, "float32", (2**20,), "backward", 1)
    seconds = 2 * 3 / 4 * 2**22 * 2 / (pod.chip_link_bandwidth / 2)
    assert pod.collective_seconds(pair, 4) == pytest.approx(seconds)
    # All-to-all over a whole pod: a quarter of all that the chips hold crosses its middle.
    exchange = Collective(ALL_TO_ALL, "data", 2048, "bfloat16", (2**20,), "forward", 1)
    assert pod.collective_seconds(exchange, 2048) == pytest.approx(
        2048 * 2 * 2**20 / 4 / pod.pod_bisection_bandwidth
    )


def test_the_span_of_an_axis_holds_the_axes_inside_it():
    layout = MeshLayout.parse("data:4,model:2", "batch:data,d_ff:model")
    assert [
        hardware.compute_span(layout, axis) for axis in ("data", "model", "data+model")
    ] == [
        8,
        2,
        8,
    ]


def test_a_slice_has_the_links_that_cross_its_middle():
    """The middle of a torus is crossed twice in each row, that of a slice without wrap-around once.

    TPU v3: 32 x 32 chips, 2 x 32 links for 6.4 TB/s, 0.1 TB/s each. 512 cores are 16 x 16 chips
    with 16 links, 128 cores 8 x 8 chips with 8. TPU v4: 16 x 16 x 16 chips, 2 x 16 x 16 links for
    24 TB/s, 46.875 GB/s each. 1024 cores are 8 x 8 x 8 chips with 64 links.
    """
    v3, v4 = read_hardware(), read_hardware("tpu_v4")
    assert v3.bisection_bandwidth(1024) == 6.4e12
    assert v3.bisection_bandwidth(256) == pytest.approx(16 * 0.1e12)
    assert v3.bisection_bandwidth(64) == pytest.approx(8 * 0.1e12)
    assert v4.bisection_bandwidth(4096) == 24e12
    assert v4.bisection_bandwidth(512) == pytest.approx(64 * 46.875e9)


def test_an_all_to_all_on_a_slice_waits_for_the_middle():
    """512 cores of TPU v3 are 256 chips of two cores. Half of the chips send half of 2 MiB a core.

    128 x 2 x 1 MiB cross 16 links of 0.1 TB/s.
    """
    exchange = Collective(ALL_TO_ALL, "data", 512, "bfloat16", (2**20,), "forward", 1)
    seconds = read_hardware().collective_seconds(exchange, 512)
    assert seconds == pytest.approx(256 * 2**20 / 1.6e12)


def test_two_cores_of_a_chip_communicate_through_its_memory():
    """900 GB/s a chip are 450 GB/s a core, which sends half of 4 MiB."""
    exchange = Collective(ALL_TO_ALL, "data", 2, "float32", (2**20,), "forward", 3)
    assert read_hardware().collective_seconds(exchange, 2) == pytest.approx(3 * 2**21 / 450e9)


def test_a_matmul_is_limited_by_arithmetic_or_by_memory():
    """Half of a chip's 123 TFLOP/s and of its 900 GB/s."""
    v3 = read_hardware()
    assert v3.matmul_seconds(61.5e9, 1.0) == pytest.approx(1e-3)
    assert v3.matmul_seconds(1.0, 450e6) == pytest.approx(1e-3)
    assert v3.core_hbm_bytes == 16 * 2**30


def test_a_step_is_its_matmuls_its_variables_read_and_written_and_its_collectives():
    """On TPU v3: matmuls of 1 and 2 ms, and 2.25 GB read and written at 450 GB/s in 10 ms.

    Over 8 cores, 4 chips in two dimensions, a chip of two cores sends 328 GB/s: an all-reduce
    of 82 MB a core takes 2 x 7/8 x 82e6 x 2 / 328e9 = 0.875 ms, and a permute of as much 0.5 ms.
    """
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    matmuls = [
        types.SimpleNamespace(flops=61.5e9, bytes=1e3),
        types.SimpleNamespace(flops=1e3, bytes=900e6),
    ]
    shape = (20_500_000,)
    collectives = [
        Collective(ALL_REDUCE, "data", 8, "float32", shape, "backward", 1),
        Collective(PERMUTE, "data", 8, "float32", shape, "forward", 1),
        Collective(ALL_TO_ALL, "data", 8, "float32", shape, "forward", 1),
    ]
    v3 = read_hardware()
    step = hardware.estimate_step(v3, layout, matmuls, 2_250_000_000, collectives)
    assert step.compute_seconds == pytest.approx(13e-3)
    assert step.all_reduce_seconds == pytest.approx(0.875e-3 + 0.5e-3)
    # 4 chips, 2 x 2 of 32 x 32: 2 of 64 links, and 2 chips send half of 2 x 82 MB across.
    assert step.all_to_all_seconds == pytest.approx(2 * 82e6 / 0.2e12)
    assert step.step_seconds == pytest.approx(13e-3 + 1.375e-3 + 0.82e-3)
    assert (step.bottleneck, step.hardware, step.hbm_bytes) == ("compute", "TPU v3", 2**34)
    without_matmuls = hardware.estimate_step(v3, layout, [], 0, collectives)
    assert without_matmuls.bottleneck == "all_reduce"


@pytest.mark.parametrize(("cores", "nearest"), [(16, "8 and 32"), (4096, "1024 and 2048")])
def test_a_mesh_of_another_size_is_refused_with_the_nearest_slices(cores, nearest):
    with pytest.raises(UserError, match=f"The mesh has {cores} cores.*sizes are {nearest}"):
        read_hardware().check_slice(cores)
