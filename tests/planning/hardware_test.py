"""Times against numbers derived by hand from the sources that gin/hardware/ cites."""

from __future__ import annotations

import dataclasses
import types

import pytest
from pod_hardware import read_hardware

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.errors import UserError
from mtf_switch.planning import hardware
from mtf_switch.planning.communication import ALL_REDUCE, ALL_TO_ALL, PERMUTE, Collective

PODS = {
    "tpu_v2": (11.8e15, 63.5e12),
    "tpu_v3": (126e15, 340e12),
    "tpu_v4": (1.1e18, 1.1e15),
    "tpu_v5e": (50.4e15, 51.2e12),
}


@pytest.mark.parametrize("name", PODS)
def test_a_pods_peak_and_all_reduce_are_those_of_its_source(name):
    """Numbers of a whole pod in cloud.google.com/tpu/docs follow from the file's chips."""
    pod = read_hardware(name)
    chips = max(pod.slices) / pod.cores_per_chip
    petaflops, terabytes = PODS[name]
    assert chips * pod.chip_flops == pytest.approx(petaflops, rel=0.03)
    assert chips * pod.chip_link_bandwidth == pytest.approx(terabytes, rel=0.03)


# All cores of a pod on one axis, so that the two cores of a chip are in the same group.
WHOLE_POD = MeshLayout.parse("data:2048", "batch:data,experts:data")
MIB = 2**20


def test_a_whole_pods_all_reduce_has_the_bandwidth_of_its_source():
    """Every core of TPU v3 adds up 4 MiB: 1024 chips send 2 x 1023/1024 x 4 MiB at 340 TB/s."""
    reduce_ = Collective(ALL_REDUCE, "data", 2048, "float32", (MIB,), "backward", 10)
    seconds = read_hardware().collective_seconds(reduce_, WHOLE_POD)
    assert seconds == pytest.approx(10 * 1023 * 2 * 4 * MIB / 340e12, rel=0.02)
    # Exactly four links of 656 Gbit/s per chip.
    assert seconds == pytest.approx(10 * 1023 / 1024 * 2 * 4 * MIB / (4 * 656e9 / 8))


def test_two_cores_of_a_chip_send_their_sum_once():
    """4 MiB per core. Two chips are joined in one of two dimensions of TPU v3, at 164 GB/s.

    As one group of 4 cores, each chip sends 2 x 1/2 of its sum: 4 MiB. As two groups of 2
    cores, with one core of each group on each chip, it sends as much for each group: 8 MiB.
    """
    v3 = read_hardware()
    inner = MeshLayout.parse("data:2,model:4", "batch:data,d_ff:model")
    together = Collective(ALL_REDUCE, "model", 4, "float32", (MIB,), "backward", 1)
    assert v3.collective_seconds(together, inner) == pytest.approx(4 * MIB / 164e9)
    outer = MeshLayout.parse("data:2,model:2", "batch:data,d_ff:model")
    apart = Collective(ALL_REDUCE, "data", 2, "float32", (MIB,), "backward", 1)
    assert v3.collective_seconds(apart, outer) == pytest.approx(8 * MIB / 164e9)


def test_an_all_reduce_over_one_of_two_axes_shares_the_links_with_its_neighbour():
    """512 x 2 cores of TPU v3: each chip sends for two groups of 512 chips each."""
    layout = MeshLayout.parse("data:512,model:2", "batch:data,d_ff:model")
    reduce_ = Collective(ALL_REDUCE, "data", 512, "float32", (MIB,), "backward", 1)
    seconds = read_hardware().collective_seconds(reduce_, layout)
    assert seconds == pytest.approx(2 * 2 * 511 / 512 * 4 * MIB / 328e9)


def test_an_all_to_all_leaves_its_own_chip_out():
    """8 cores of TPU v4, 2 MiB each: 4 chips in two of three dimensions, at 2/3 of 269 GB/s.

    Each of the two cores of a chip sends 6 of 8 parts to other chips, 3 MiB together. The
    middle is made so wide that it does not delay them.
    """
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    exchange = Collective(ALL_TO_ALL, "data", 8, "bfloat16", (MIB,), "forward", 1)
    v4 = dataclasses.replace(read_hardware("tpu_v4"), pod_bisection_bandwidth=1e18)
    assert v4.collective_seconds(exchange, layout) == pytest.approx(3 * MIB * 3 / 2 / 269e9)


def test_the_middle_of_a_pod_delays_an_all_to_all():
    """A quarter of all that the 2048 cores hold crosses the middle of TPU v3 at 6.4 TB/s."""
    exchange = Collective(ALL_TO_ALL, "data", 2048, "bfloat16", (MIB,), "forward", 1)
    assert read_hardware().collective_seconds(exchange, WHOLE_POD) == pytest.approx(
        2048 * 2 * MIB / 4 / 6.4e12
    )


@pytest.mark.parametrize(
    ("mesh", "axis", "neighbors"),
    [
        ("data:8", "data", 2),
        ("data:4,model:2", "data", 1),
        ("data:4,model:2", "model", 2),
        ("data:4,model:2", "data+model", 2),
        ("data:4,model:1", "data", 2),
        ("model:2,x:2,data:2", "model+data", 2),
        ("model:2,x:2,data:2", "model+x", 1),
    ],
)
def test_the_cores_of_a_chip_are_neighbours_on_the_innermost_axis(mesh, axis, neighbors):
    layout = MeshLayout.parse(mesh, "batch:data")
    assert hardware.count_neighbors(layout, axis, cores_per_chip=2) == neighbors


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
    """Each row of a torus crosses its middle twice, that of a slice without wrap-around once.

    TPU v3: 32 x 32 chips, 2 x 32 links for 6.4 TB/s, 0.1 TB/s each. 512 cores are 16 x 16 chips
    with 16 links, 128 cores 8 x 8 chips with 8. TPU v4: 16 x 16 x 16 chips, 2 x 16 x 16 links
    for 24 TB/s, 46.875 GB/s each. 1024 cores are 8 x 8 x 8 chips with 64 links.
    """
    v3, v4 = read_hardware(), read_hardware("tpu_v4")
    assert v3.bisection_bandwidth(1024) == 6.4e12
    assert v3.bisection_bandwidth(256) == pytest.approx(16 * 0.1e12)
    assert v3.bisection_bandwidth(64) == pytest.approx(8 * 0.1e12)
    assert v4.bisection_bandwidth(4096) == 24e12
    assert v4.bisection_bandwidth(512) == pytest.approx(64 * 46.875e9)


def test_an_all_to_all_on_a_slice_waits_for_the_middle():
    """512 cores of TPU v3 are 256 chips of 2 cores. Half of the chips send half of 2 MiB per core.

    128 x 2 x 1 MiB cross 16 links of 0.1 TB/s.
    """
    exchange = Collective(ALL_TO_ALL, "data", 512, "bfloat16", (2**20,), "forward", 1)
    layout = MeshLayout.parse("data:512", "batch:data,experts:data")
    seconds = read_hardware().collective_seconds(exchange, layout)
    assert seconds == pytest.approx(256 * 2**20 / 1.6e12)


def test_two_cores_of_a_chip_communicate_through_its_memory():
    """900 GB/s per chip are 450 GB/s per core, which sends half of 4 MiB."""
    exchange = Collective(ALL_TO_ALL, "data", 2, "float32", (2**20,), "forward", 3)
    layout = MeshLayout.parse("data:2", "batch:data,experts:data")
    seconds = read_hardware().collective_seconds(exchange, layout)
    assert seconds == pytest.approx(3 * 2**21 / 450e9)


@pytest.mark.parametrize(
    ("name", "usable"),
    # GiB of a core that libtpu 0.0.2 gives to a program, as it prints them.
    [("tpu_v2", 7.48), ("tpu_v3", 15.48), ("tpu_v4", 15.25), ("tpu_v5e", 15.75)],
)
def test_the_usable_memory_of_a_core_is_that_of_the_compiler(name, usable):
    assert read_hardware(name).core_usable_bytes / 2**30 == pytest.approx(usable, abs=0.005)


def test_a_matmul_is_limited_by_arithmetic_or_by_memory():
    """Half of a chip's 123 TFLOP/s and of its 900 GB/s."""
    v3 = read_hardware()
    assert v3.matmul_seconds(61.5e9, 1.0) == pytest.approx(1e-3)
    assert v3.matmul_seconds(1.0, 450e6) == pytest.approx(1e-3)
    # 16 GiB, of which the compiler reserves 530 MiB.
    assert v3.core_usable_bytes == 16 * 2**30 - 530 * 2**20


def test_a_step_is_its_matmuls_its_variables_read_and_written_and_its_collectives():
    """On TPU v3: matmuls of 1 and 2 ms, and 2.25 GB read and written at 450 GB/s in 10 ms.

    Over 8 cores, 4 chips in two dimensions, a chip of two cores sends 328 GB/s: an all-reduce
    of 82 MB per core takes 2 x 3/4 x 82e6 / 328e9 = 0.375 ms, as the two cores of a chip send
    their sum, and a permute of 2 x 82 MB takes 0.5 ms.
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
    assert step.all_reduce_seconds == pytest.approx(0.375e-3 + 0.5e-3)
    # 4 chips, 2 x 2 of 32 x 32: 2 of 64 links, and 2 chips send half of 2 x 82 MB across.
    assert step.all_to_all_seconds == pytest.approx(2 * 82e6 / 0.2e12)
    assert step.step_seconds == pytest.approx(13e-3 + 0.875e-3 + 0.82e-3)
    assert (step.bottleneck, step.hardware) == ("compute", "TPU v3")
    assert step.hbm_bytes == v3.core_usable_bytes
    without_matmuls = hardware.estimate_step(v3, layout, [], 0, collectives)
    assert without_matmuls.bottleneck == "all_reduce"


@pytest.mark.parametrize(("cores", "nearest"), [(16, "8 and 32"), (4096, "1024 and 2048")])
def test_a_mesh_of_another_size_is_refused_with_the_nearest_slices(cores, nearest):
    with pytest.raises(UserError, match=f"The mesh has {cores} cores.*sizes are {nearest}"):
        read_hardware().check_slice(cores)
