"""Switch attention against Mesh TensorFlow's layer, on the same variables."""

from __future__ import annotations

import dataclasses
import functools

import mesh_harness
import numpy as np
import pytest
from alternate import alternate
from attention_case import HEADS, PARTS, Case, D, E, F
from mesh_tensorflow.transformer import transformer_layers
from routing import DISPATCHES


class Repaired(transformer_layers.ExpertsSelfAttention):
    """Upstream's layer, with keys and values that have the memory's positions.

    As it is, they keep those of the queries, and the dot product of query and key pairs each
    token with itself alone.
    """

    def make_params(self, context):
        params = super().make_params(context)
        compute_kv = params.compute_kv
        params.compute_kv = lambda memory: self.rename_length_to_memory_length(
            compute_kv(memory), context
        )
        return params


def upstream(layer, computation, factor=0.75):
    return layer(
        num_experts=E,
        hidden_size=F,
        group_size=12,
        capacity_factor_train=factor,
        capacity_factor_eval=factor,
        min_expert_capacity=1,
        switch_policy_train="argmax",
        switch_policy_eval="argmax",
        expert_computation=computation,
        shared_kv=True,
        num_heads=HEADS,
        key_value_size=D,
    )


@pytest.mark.parametrize(("computation", "dispatch"), alternate(PARTS, list(DISPATCHES)))
def test_equals_upstream_repaired_in_outputs_losses_and_all_gradients(computation, dispatch):
    """For "qkv", upstream has one router and one hidden layer, so both sets are equal here."""
    case = Case(computation, "ffn", dispatch=dispatch, folded=False, real=0.8)
    x, nonpadding, weights = case.draw()
    if computation == "qkv":
        query, key_value = weights["query"], weights["key_value"]
        weights["key_value"] = dataclasses.replace(key_value, w_r=query.w_r, wi=query.wi)
    ours = case.variables(weights)
    theirs = {}
    for name, value in ours.items():
        part, _, rest = name.partition("/")
        last = {"query": "q_wo/kernel", "key_value": "k_wo/kernel"}.get(part)
        theirs[last if rest == "wo/kernel" and computation == "qkv" else rest or name] = value
    run = functools.partial(
        mesh_harness.run_layer,
        x=x,
        nonpadding=nonpadding,
        dy=np.random.default_rng(1).standard_normal(x.shape),
        # Upstream's balance loss counts padding differently: see switch_ffn_upstream_test.
        loss_weight=0.0,
    )
    one = run(case.layer, variables=ours)
    other = run(lambda: upstream(Repaired, computation), variables=theirs)
    np.testing.assert_allclose(one.y, other.y, rtol=1e-5, atol=1e-5)
    assert np.abs(one.y).max() > 0.1
    assert len(one.grads) == len(ours) + 1
    for name, grad in other.grads.items():
        # Where upstream's two sets share a variable, its gradient is the sum.
        alike = {"q_wo/kernel": "query/wo/kernel", "k_wo/kernel": "key_value/wo/kernel"}
        names = [n for n in one.grads if n == alike.get(name, name)] or [
            n for n in one.grads if n.partition("/")[2] == name
        ]
        scale = np.abs(grad).max()
        assert scale > 0.01, name
        np.testing.assert_allclose(
            sum(one.grads[n] for n in names), grad, rtol=1e-5, atol=2e-5 * scale, err_msg=name
        )


def test_upstream_unrepaired_looks_at_no_other_token_and_this_layer_does():
    """If no token is dropped, tokens depend on each other only through attention."""
    case = Case("q", "ffn", factor=float(E), mode="eval")
    x, _, _ = case.draw()
    others = x.copy()
    others[:, 1:] = np.random.default_rng(1).standard_normal(others[:, 1:].shape)
    changes = {}
    for name, layer in {
        "upstream": lambda: upstream(transformer_layers.ExpertsSelfAttention, "q", float(E)),
        "repaired": lambda: upstream(Repaired, "q", float(E)),
        "ours": case.layer,
    }.items():
        first = [
            mesh_harness.run_layer(
                layer,
                tokens,
                nonpadding=np.ones(tokens.shape[:2], int),
                mode="eval",
                differentiate=False,
            ).y[:, 0]
            for tokens in (x, others)
        ]
        changes[name] = np.abs(first[0] - first[1]).max()
    assert changes["upstream"] == 0.0
    assert min(changes["repaired"], changes["ours"]) > 0.1
