"""Section 5's closed forms, alone and against the graph that a pod would run."""

from __future__ import annotations

import subprocess
import sys

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.planning import communication
from mtf_switch.planning.communication import (
    ALL_REDUCE,
    ALL_TO_ALL,
    Collective,
    PredictedCollective,
)


def test_the_formulas_need_no_tensorflow():
    code = "import sys, mtf_switch.planning.communication, mtf_switch.config.mesh_layout, mtf_switch.planning.hardware\n"
    code += "assert 'tensorflow' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_crosses_the_wires():
    # By hand: of 4 parts of 2 KiB each core keeps one; a ring passes 3 parts on, twice.
    assert communication.compute_wire_bytes(ALL_TO_ALL, 8192, 4) == 3 * 2048
    assert communication.compute_wire_bytes(ALL_REDUCE, 8192, 4) == 2 * 3 * 2048
    one = Collective(ALL_TO_ALL, "data", 4, "bfloat16", (4, 1024), "forward", 3)
    assert one.operand_bytes == 3 * 8192
    assert one.wire_bytes == 3 * 3 * 2048


def test_the_paper_section_5_4():
    """E x C x d_model per core and all-to-all, twice each way; none if experts are not split."""
    layout = MeshLayout.parse("data:4", "batch:data,experts:data")
    assert communication.predict_switch_layer(
        layout, groups=4, experts=8, capacity=5, d_model=16
    ) == [PredictedCollective(ALL_TO_ALL, "data", 8 * 5 * 16, 2, 2)]
    replicated = MeshLayout.parse("data:4", "batch:data")
    assert communication.predict_switch_layer(replicated, 4, 8, 5, 16) == []


def test_the_paper_sections_5_2_and_5_3():
    layout = MeshLayout.parse("data:4,model:2", "batch:data,d_ff:model")
    assert communication.predict_dense_layer(layout, tokens=512, d_model=16) == [
        PredictedCollective(ALL_REDUCE, "model", 512 // 4 * 16, 1, 1)
    ]
    assert communication.predict_dense_layer(layout, 512, 16, hidden_dim="heads") == []
