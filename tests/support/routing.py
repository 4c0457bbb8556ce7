"""Support for tests of routers: routers, ways to dispatch, and a Routing as arrays."""

from __future__ import annotations

import functools

import mesh_harness
import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.no_token_left_behind import NoTokenLeftBehindRouter
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.top_k_router import TopKRouter

# Exploration without noise.
STILL = Exploration("argmax")
# Algorithm -> the `dispatch` value that leads to it on one core, and whether for a TPU.
DISPATCHES = {"einsum": ("einsum", False), "gather": ("gather", True), "sort": ("sort", False)}


def make_top_k(k, policy="all", **kwargs):
    """Makes a TopKRouter with the same policy in training and evaluation."""
    return TopKRouter(k=k, policy_train=policy, policy_eval=policy, **kwargs)


ROUTERS = {
    "switch": SwitchRouter,
    "top-2, all": functools.partial(make_top_k, 2),
    "top-2, threshold": functools.partial(make_top_k, 2, "threshold"),
    "top-2, random": functools.partial(make_top_k, 2, "random"),
    "top-3, random": functools.partial(make_top_k, 3, "random", threshold=0.5),
    "no token left behind": functools.partial(NoTokenLeftBehindRouter, stages=3),
}


def route(
    x,
    w_r,
    capacity,
    nonpadding=None,
    *,
    router=SwitchRouter(exploration=STILL),  # noqa: B008  it is frozen
    train=False,
    dtype=tf.float32,
    step=0,
    seed=0,
    mesh_shape=None,
    layout="batch:all,experts:all",
):
    """Returns the Routing of x [O, G, S, M] as arrays by field."""

    def build(mesh):
        inputs = mesh_harness.constant(mesh, x, "outer_batch batch group d_model")
        real = None
        if nonpadding is not None:
            real = mesh_harness.constant(mesh, nonpadding, "outer_batch batch group")
        routing = router.route(
            mtf.cast(inputs, dtype),
            mtf.Dimension("expert_unsplit", w_r.shape[1]),
            capacity,
            mtf.VariableDType(tf.float32, tf.float32, dtype),
            train,
            real,
        )
        return collect_tensors(routing)

    return mesh_harness.evaluate(
        build,
        variables={"switch_gating/kernel": w_r},
        global_step=step,
        seed=seed,
        mesh_shape=mesh_shape,
        layout=layout,
    )["value"]


def collect_tensors(routing):
    """Returns the tensors of a Routing by field."""
    others = ("experts_per_token", "choices")
    return {name: value for name, value in vars(routing).items() if name not in others}
