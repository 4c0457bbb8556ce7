"""Runs a layer of ours and one of upstream's on the same variables."""

from __future__ import annotations

import dataclasses
import functools

import mesh_harness
import numpy as np
import oracle
from mesh_tensorflow.transformer import moe

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.switch_ffn import SwitchFFN

HIDDEN = 12


@dataclasses.dataclass(frozen=True)
class Parity:
    """A case for both layers: x [batch, length, M], of which a share `real` is not padding."""

    shape: tuple[int, int, int] = (4, 16, 8)
    experts: int = 4
    group_size: int = 16
    activation: str | tuple[str, ...] = "relu"
    mode: str = "train"
    real: float = 1.0
    devices: int = 1
    factor: float = 1.0


CASES = {
    "train": Parity(),
    "train, padding": Parity(real=0.6),
    "train, rows not groups": Parity(shape=(8, 6, 5), experts=3, group_size=12, real=0.7),
    "train, little room": Parity(real=0.8, factor=0.5),
    "eval, padding": Parity(real=0.6, mode="eval", factor=2.0),
    "train, padding, 4 devices": Parity(real=0.6, devices=4),
}


def run_both(case, router, gating, loss_weight, *, dispatch="auto", on_tpu=False, **upstream):
    """Returns the outcomes of our layer with a router, and of upstream's with a moe_gating."""
    x, nonpadding, dy, weights = draw_case(case, gating)

    def make_layer():
        layer = SwitchFFN(
            case.experts,
            HIDDEN,
            _list_activations(case),
            capacity=ExpertCapacity(case.factor, case.factor, 1, case.group_size),
            router=router,
            dispatch=dispatch,
        )
        layer.set_target(on_tpu=on_tpu)
        return layer

    ours = mesh_harness.run_layer(
        make_layer,
        x,
        nonpadding=nonpadding,
        mode=case.mode,
        variables=weights.variables(),
        devices=case.devices,
        dy=dy,
        loss_weight=loss_weight,
    )
    return ours, _run_upstream(case, gating, loss_weight, tuple(upstream.items()))


# Tests of several dispatches compare with the same outcome.
@functools.lru_cache(maxsize=4)
def _run_upstream(case, gating, loss_weight, upstream):
    """Returns the Outcome of upstream's layer, with our names for its variables.

    Upstream's router kernel has a different name for each gating; ours has one name.
    """
    x, nonpadding, dy, weights = draw_case(case, gating)
    theirs = mesh_harness.run_layer(
        lambda: moe.MoE1D(
            num_experts=case.experts,
            hidden_size=HIDDEN,
            activation=_list_activations(case),
            group_size=case.group_size,
            capacity_factor_train=case.factor,
            capacity_factor_eval=case.factor,
            min_expert_capacity=1,
            moe_gating=gating,
            **dict(upstream),
        ),
        x,
        nonpadding=nonpadding,
        mode=case.mode,
        variables=_rename_router(weights.variables(), "switch", gating),
        devices=case.devices,
        dy=dy,
        loss_weight=loss_weight,
    )
    return dataclasses.replace(
        theirs,
        variables=_rename_router(theirs.variables, gating, "switch"),
        grads=_rename_router(theirs.grads, gating, "switch"),
    )


def draw_case(case, gating):
    """x, nonpadding, dy and the weights: the same for a case and a gating in every call."""
    rng = np.random.default_rng(len(gating))
    batch, length, model = case.shape
    factors = 1 if isinstance(case.activation, str) else len(case.activation)
    weights = oracle.Weights.draw(rng, model, case.experts, HIDDEN, factors)
    x = oracle.tokens_with_clear_choices(rng, case.shape, weights.w_r, skew=0.5, choices=3)
    # All ones where there is no padding, because upstream needs to know.
    nonpadding = (rng.random((batch, length)) < case.real).astype(int)
    if case.real < 1:
        nonpadding[1] = 0  # a row of padding alone
    return x, nonpadding, rng.standard_normal(x.shape), weights


def _list_activations(case):
    return case.activation if isinstance(case.activation, str) else [*case.activation]


def _rename_router(values, old, new):
    return {name.replace(f"{old}_gating", f"{new}_gating"): v for name, v in values.items()}


def assert_equal_outputs_and_gradients(ours, theirs):
    """Compares them within the errors of float32 sums in another order."""
    np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-5, atol=1e-5)
    assert np.abs(ours.y).max() > 0.1
    assert ours.grads.keys() == theirs.grads.keys()
    for name, grad in theirs.grads.items():
        scale = np.abs(grad).max()
        assert scale > 0.01, name
        np.testing.assert_allclose(
            ours.grads[name], grad, rtol=1e-5, atol=1e-5 * scale, err_msg=name
        )
