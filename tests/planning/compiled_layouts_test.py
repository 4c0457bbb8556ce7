"""The TPU's compiler accepts the training step of a tiny model under every layout of Figure 9."""

from __future__ import annotations

import pytest
from strategies import STRATEGIES

from mtf_switch.cli import main
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


@pytest.mark.parametrize(
    "strategy",
    [
        "expert_model_data",
        *(pytest.param(s, marks=pytest.mark.slow) for s in ("data", "model")),
    ],
)
def test_decoding_compiles_and_its_loop_counts_one_iteration(strategy):
    settings = planner.parse_settings(
        ["models/switch_tiny.gin", f"layouts/{strategy}.gin"], PARAMS, BATCH_TOKENS
    )
    step = planner.compile_step(settings, mode="predict")
    assert step.fits
    assert step.plan is None
    splits_layers = strategy != "data"
    assert any(item.per_iteration for item in step.compilation.collectives) == splits_layers


@pytest.mark.slow
def test_layouts_are_compared_in_one_table(capsys, tmp_path):
    model = ["--gin_file=models/switch_tiny.gin", *(f"--gin_param={p}" for p in PARAMS)]
    layouts = ["layouts/expert_8.gin", "layouts/data.gin"]
    arguments = [
        "compile",
        *model,
        f"--batch_tokens={BATCH_TOKENS}",
        f"--output_dir={tmp_path}/o",
    ]
    assert main.main([*arguments, "--compare", *layouts]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert [row.split()[:2] for row in rows[1:3]] == [[each, "v3:2x2"] for each in layouts]
    assert all("yes" in row.split() for row in rows[1:3])
    assert {path.name for path in (tmp_path / "o").glob("*.mlirbc")} == {
        "expert_8.program.mlirbc",
        "data.program.mlirbc",
    }
