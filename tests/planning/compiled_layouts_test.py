"""The TPU's compiler accepts the training step of a tiny model under every layout of Figure 9."""

from __future__ import annotations

import pytest
from strategies import STRATEGIES

from mtf_switch.errors import UserError
from mtf_switch.planning import planner
from mtf_switch.programs import tpu_compiler

# One block in each stack, and heads that eight cores can split.
PARAMS = ("num_layers = 1", "num_heads = 8")
BATCH_TOKENS = 8192


def is_installed() -> bool:
    try:
        tpu_compiler.find_library()
    except UserError:
        return False
    return True


pytestmark = [
    pytest.mark.compiler,
    pytest.mark.skipif(not is_installed(), reason="needs `make install-compiler`"),
]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tiny_model_compiles_for_a_tpu_v3_8(strategy):
    settings = planner.parse_settings(
        ["models/switch_tiny.gin", f"layouts/{strategy}.gin"], PARAMS, BATCH_TOKENS
    )
    step = planner.compile_step(settings)
    outcome, plan = step.compilation, step.plan
    assert (outcome.topology, outcome.core) == ("v3:2x2", "TPU v3")
    assert step.fits
    assert "It fits: it needs" in step.verdict
    # The hardware file states the memory in MiB, the compiler in GiB with two digits.
    assert outcome.usable_bytes == pytest.approx(plan.estimate.hbm_bytes, abs=0.005 * 2**30)
    # Every variable is donated; what is left of the outputs is the loss.
    assert outcome.bytes.outputs - outcome.bytes.donated < 10_000
    variables = sum(item.bytes for item in step.program.inputs)
    assert variables <= outcome.bytes.arguments < 1.2 * variables
    # The compiler joins all-reduces, but no all-to-all is lost.
    planned = sum(c.count for c in plan.collectives if c.kind == "all_to_all")
    assert sum(c.count for c in outcome.collectives if c.kind == "all_to_all") == planned
    assert {c.kind for c in outcome.collectives} <= {c.kind for c in plan.collectives}
