"""The arrangement of a planned mesh on the chips of a pod."""

from __future__ import annotations

import pytest
import tensorflow.compat.v1 as tf

from mtf_switch.planning import planner, pod_graph


@pytest.mark.parametrize(("cores_per_chip", "is_default"), [(1, True), (2, False)])
def test_the_cores_are_arranged_on_the_chips_of_the_pod(cores_per_chip, is_default):
    """Upstream has an order of its own for chips with two cores only."""
    settings = planner.parse_settings(["models/switch_tiny.gin", "layouts/expert_32.gin"], [])
    with tf.Graph().as_default():
        impl = pod_graph._make_mesh_impl(settings, cores_per_chip)
    order = [impl.l2p(core) for core in range(32)]
    assert sorted(order) == list(range(32))
    assert (order == list(range(32))) == is_default
