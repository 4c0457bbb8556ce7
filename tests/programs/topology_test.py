"""The names of pods: what each means, which one is chosen, and what is refused."""

from __future__ import annotations

import pytest

from mtf_switch.errors import UserError
from mtf_switch.programs import topology


@pytest.mark.parametrize(
    ("name", "cores"),
    [
        *(("v2:2x2", 8), ("v3:2x2", 8), ("v3:4x4", 32), ("v3:32x32", 2048)),
        *(("v4:2x2x1", 8), ("v4:4x4x4", 128), ("v5e:2x4", 8), ("v5p:2x2x1", 4), ("v6e:2x2", 4)),
    ],
)
def test_a_topology_has_the_cores_of_its_chips(name, cores):
    assert topology.read(name).cores == cores


@pytest.mark.parametrize(
    ("generation", "cores", "name"),
    [
        *(("v3", 8, "v3:2x2"), ("v3", 32, "v3:4x4"), ("v3", 64, "v3:4x8")),
        *(("v3", 512, "v3:16x16"), ("v3", 1024, "v3:16x32"), ("v3", 2048, "v3:32x32")),
        *(("v4", 8, "v4:2x2x1"), ("v4", 16, "v4:2x2x2"), ("v4", 32, "v4:2x2x4")),
        *(("v4", 128, "v4:4x4x4"), ("v5e", 8, "v5e:2x4"), ("v6e", 256, "v6e:16x16")),
    ],
)
def test_the_chosen_topology_is_nearly_a_square_or_a_cube(generation, cores, name):
    chosen = topology.choose(generation, cores)
    assert (chosen.name, chosen.cores) == (name, cores)


@pytest.mark.parametrize(
    "name", ["v3:4by4", "v9:2x2", "v3:2x2x1", "v4:2x2", "v3:0x2", "v3:64x64", "2x2", "v3-8"]
)
def test_an_unknown_topology_is_refused(name):
    with pytest.raises(UserError, match=f"There is no TPU topology {name!r}. A topology is"):
        topology.read(name)


def test_similar_topologies_are_named():
    with pytest.raises(UserError, match=r"The nearest names are: .*v3:16x16"):
        topology.read("v3:16x61")


@pytest.mark.parametrize("cores", [4, 24, 7, 4096])
def test_a_size_without_a_usual_topology_is_refused(cores):
    with pytest.raises(UserError, match=r"no usual TPU v3 topology with|no TPU topology"):
        topology.choose("v3", cores)


def test_hardware_that_the_compiler_does_not_know_is_refused():
    with pytest.raises(UserError, match="does not know the hardware 'v9': it knows TPU v2, v3"):
        topology.choose("v9", 8)


def test_a_topology_must_have_as_many_cores_as_the_mesh():
    with pytest.raises(
        UserError, match=r"The topology v3:4x4 has 32 cores, but the mesh data:8 has 8\."
    ):
        topology.check_cores(topology.read("v3:4x4"), 8, "data:8")
    topology.check_cores(topology.read("v3:2x2"), 8, "data:8")
