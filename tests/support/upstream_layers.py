"""A layer of ours and one of upstream's on the same variables."""

from __future__ import annotations

import dataclasses

import mesh_harness
import numpy as np
import oracle
from mesh_tensorflow.transformer import moe

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.switch_ffn import SwitchFFN

STILL = Exploration("argmax")
HIDDEN = 12


@dataclasses.dataclass(frozen=True)
class Parity:
    """A case for both layers: x [batch, length, M], a share `real` of it no padding."""

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
    """Outcomes of our layer with a router, and of upstream's with a moe_gating.

    Upstream's router kernel has a name of its own for each gating; ours has one name.
    """
    rng = np.random.default_rng(len(gating))
    batch, length, model = case.shape
    activation = case.activation if isinstance(case.activation, str) else [*case.activation]
    factors = 1 if isinstance(activation, str) else len(activation)
    weights = oracle.Weights.draw(rng, model, case.experts, HIDDEN, factors)
    x = oracle.tokens_with_clear_choices(rng, case.shape, weights.w_r, skew=0.5, choices=3)
    # Upstream crashes where it is not told about padding: all ones then.
    nonpadding = (rng.random((batch, length)) < case.real).astype(int)
    if case.real < 1:
        nonpadding[1] = 0  # a row of nothing
    dy = rng.standard_normal(x.shape)

    def ours():
        layer = SwitchFFN(
            case.experts,
            HIDDEN,
            activation,
            capacity=ExpertCapacity(case.factor, case.factor, 1, case.group_size),
            router=router,
            dispatch=dispatch,
        )
        layer.set_target(on_tpu=on_tpu)
        return layer

    def theirs():
        return moe.MoE1D(
            num_experts=case.experts,
            hidden_size=HIDDEN,
            activation=activation,
            group_size=case.group_size,
            capacity_factor_train=case.factor,
            capacity_factor_eval=case.factor,
            min_expert_capacity=1,
            moe_gating=gating,
            **upstream,
        )

    variables = weights.variables()
    renamed = {k.replace("switch_gating", f"{gating}_gating"): v for k, v in variables.items()}
    ours, theirs = (
        mesh_harness.run_layer(
            layer,
            x,
            nonpadding=nonpadding,
            mode=case.mode,
            variables=values,
            devices=case.devices,
            dy=dy,
            loss_weight=loss_weight,
        )
        for layer, values in ((ours, variables), (theirs, renamed))
    )
    grads = {k.replace(f"{gating}_gating", "switch_gating"): v for k, v in theirs.grads.items()}
    return ours, dataclasses.replace(theirs, grads=grads)


def assert_equal_outputs_and_gradients(ours, theirs):
    """To what sums in another order leave of float32."""
    np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-5, atol=1e-5)
    assert np.abs(ours.y).max() > 0.1
    assert ours.grads.keys() == theirs.grads.keys()
    for name, grad in theirs.grads.items():
        scale = np.abs(grad).max()
        assert scale > 0.01, name
        np.testing.assert_allclose(
            ours.grads[name], grad, rtol=1e-5, atol=1e-5 * scale, err_msg=name
        )
