"""The whole layer against Mesh TensorFlow's, on the same variables."""

from __future__ import annotations

import numpy as np
import pytest
import upstream_layers
from alternate import alternate
from ffn_case import GATED
from routing import DISPATCHES, STILL
from upstream_layers import Parity

from mtf_switch.layers.router import SwitchRouter

PARITY = {
    "train": Parity(),
    "train, padding": Parity(real=0.6),
    "train, padding, gated": Parity(real=0.6, activation=GATED),
    "train, padding, one group": Parity(real=0.6, group_size=64),
    "train, padding, little room": Parity(real=0.8, factor=0.5),
    "train, rows not groups": Parity(shape=(8, 6, 5), experts=3, group_size=12, real=0.7),
    "eval, padding": Parity(real=0.6, mode="eval"),
    "eval, gated": Parity(mode="eval", activation=GATED),
    "train, padding, 4 devices": Parity(real=0.6, devices=4),
    "train, padding, gated, 4 devices": Parity(real=0.6, devices=4, activation=GATED),
    "eval, padding, 4 devices": Parity(real=0.6, devices=4, mode="eval"),
}


def _one_core_can_sort(name, dispatch):
    return dispatch != "sort" or PARITY[name].devices == 1


@pytest.mark.parametrize(
    ("name", "dispatch"),
    alternate(PARITY, list(DISPATCHES), _one_core_can_sort, slow=["eval, padding, 4 devices"]),
)
def test_equals_upstream_in_outputs_losses_and_all_gradients(name, dispatch):
    case = PARITY[name]
    by, on_tpu = DISPATCHES[dispatch]
    ours, theirs = upstream_layers.run_both(
        case,
        SwitchRouter(exploration=STILL, padding="upstream"),
        "switch",
        # Makes the losses' share of the gradients as large as that of the outputs.
        1000.0,
        dispatch=by,
        on_tpu=on_tpu,
        switch_jitter=0.0,
    )
    # Names agree as well, so checkpoints can be exchanged.
    assert ours.variables.keys() == theirs.variables.keys()
    np.testing.assert_allclose(ours.losses, theirs.losses, rtol=1e-5)
    upstream_layers.assert_equal_outputs_and_gradients(ours, theirs)
