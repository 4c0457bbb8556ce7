"""The collectives of an optimised program, counted by hand."""

from __future__ import annotations

import pytest

from mtf_switch.programs import compiled_hlo
from mtf_switch.programs.compiled_hlo import CompiledCollective

# In the notation of libtpu 0.0.2. The loop runs 3 times; %unused is never called.
TEXT = """HloModule main, is_scheduled=true

%region_1.2 (Arg_0.3: f32[], Arg_1.4: f32[]) -> f32[] {
  ROOT %add.1 = f32[]{:T(256)} add(f32[] %Arg_0.3, f32[] %Arg_1.4)
}

%body.5 (param: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %all-to-all.1 = bf16[1,8,4]{2,1,0:T(8,128)(2,1)} all-to-all(bf16[1,8,4]{2,1,0} %fusion.1), replica_groups={{0,1,2,3},{4,5,6,7}}, dimensions={1}, metadata={op_name="encoder/block_000/layer_001/SwitchFFN/reshape_5/AllToAll"}
  ROOT %tuple.1 = (s32[], bf16[4,8]) tuple(s32[] %add.2, bf16[4,8] %fusion.2)
}

%condition.6 (param: (s32[], bf16[4,8])) -> pred[] {
  %constant.1 = s32[]{:T(256)} constant(3)
  ROOT %compare.1 = pred[] compare(s32[] %get-tuple-element.1, s32[] %constant.1), direction=LT
}

%unused (param: f32[9]) -> f32[9] {
  ROOT %all-reduce.9 = f32[9]{0} all-reduce(f32[9]{0} %param), replica_groups={{0,1}}, to_apply=%region_1.2
}

ENTRY %main.7 (Arg_0.1: bf16[4,8]) -> f32[2,3] {
  %while.1 = (s32[], bf16[4,8]) while((s32[], bf16[4,8]) %tuple.2), condition=%condition.6, body=%body.5
  %all-reduce.1 = (f32[2,3]{1,0}, /*index=1*/bf16[64]{0:T(512)(128)(2,1)}) all-reduce(f32[2,3]{1,0} %a, bf16[64] %b), replica_groups={{0,4},{1,5},{2,6},{3,7}}, to_apply=%region_1.2
  %collective-permute.1 = bf16[16]{0} collective-permute(bf16[16]{0} %c), source_target_pairs={{0,1},{1,0}}
  ROOT %copy.1 = f32[2,3]{1,0} copy(f32[2,3]{1,0} %get-tuple-element.2)
}
"""


def test_collectives_are_counted_with_the_runs_of_their_loops():
    assert compiled_hlo.count_collectives(TEXT) == [
        # 32 elements of two bytes, three times: 192 bytes.
        CompiledCollective("all_to_all", 4, "bfloat16", (1, 8, 4), 1, 64, 3),
        # 6 elements of four bytes and 64 of two; the larger tensor is named.
        CompiledCollective("all_reduce", 2, "bfloat16", (64,), 2, 152, 1),
        CompiledCollective("collective_permute", 2, "bfloat16", (16,), 1, 32, 1),
    ]


def test_a_loop_in_a_loop_multiplies():
    nested = TEXT.replace(
        "ROOT %tuple.1",
        "%w = (s32[], f32[]) while((s32[], f32[]) %t), condition=%condition.6, body=%inner\n"
        "  ROOT %tuple.1",
    ).replace("%unused (", "%inner (")
    counts = {item.shape: item.count for item in compiled_hlo.count_collectives(nested)}
    assert counts[(9,)] == 9


def test_a_loop_without_a_constant_number_of_runs_is_reported():
    with pytest.raises(ValueError, match=r"the loop that runs body\.5 has no constant number"):
        compiled_hlo.count_collectives(TEXT.replace("direction=LT", "direction=NE"))
