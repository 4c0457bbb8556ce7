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
    assert compiled_hlo.count_collectives(TEXT, 8) == [
        # 32 elements of two bytes, three times: 192 bytes.
        CompiledCollective("all_to_all", 4, "bfloat16", (1, 8, 4), 1, 64, 3, False),
        # 6 elements of four bytes and 64 of two; the larger tensor is named.
        CompiledCollective("all_reduce", 2, "bfloat16", (64,), 2, 152, 1, False),
        CompiledCollective("collective_permute", 2, "bfloat16", (16,), 1, 32, 1, False),
    ]


def test_a_collective_without_groups_joins_all_cores():
    """The compiler writes replica_groups={} when it splits the update of a weight over cores."""
    text = TEXT.replace("{{0,4},{1,5},{2,6},{3,7}}", "{}")
    sizes = {c.kind: c.cores_per_group for c in compiled_hlo.count_collectives(text, 8)}
    assert sizes == {"all_to_all": 4, "all_reduce": 8, "collective_permute": 2}


# In the notation of XLA's own tests. The compiler may start a collective before it waits for it.
PERMUTE = "%p = (f32[8]{0:T(256)}, f32[8]{0:T(256)}, u32[]{:S(2)}, u32[]) collective-permute-start(f32[8] %a), source_target_pairs={{0,1},{1,0}}"
GATHER = "%g = (f32[8]{0}, f32[16]{0}) all-gather-start(f32[8] %a), replica_groups={{0,1}}, dimensions={0}"
GATHER_TWO = "%g = ((f32[8]{0}, bf16[4,2]{1,0}), (f32[16]{0}, /*index=1*/bf16[8,2]{1,0})) all-gather-start(f32[8] %a, bf16[4,2] %b), replica_groups={{0,1}}, dimensions={0}"
REDUCE = "%r = (f32[8]{0}, f32[4]{0}) all-reduce-start(f32[8] %a, f32[4] %b), replica_groups={{0,1}}, to_apply=%region_1.2"
EXCHANGE = "%x = ((f32[8]{0}), f32[8]{0}, u32[]) all-to-all-start(f32[8] %a), replica_groups={{0,1}}, dimensions={0}"


@pytest.mark.parametrize(
    ("line", "kind", "shape", "tensors", "size"),
    [
        pytest.param(PERMUTE, "collective_permute", (8,), 1, 32, id="permute"),
        pytest.param(GATHER, "all_gather", (16,), 1, 64, id="all-gather"),
        pytest.param(GATHER_TWO, "all_gather", (16,), 2, 64 + 32, id="two all-gathers"),
        # An all-reduce is as its result, which may have several tensors.
        pytest.param(REDUCE, "all_reduce", (8,), 2, 32 + 16, id="all-reduce"),
        pytest.param(EXCHANGE, "all_to_all", (8,), 1, 32, id="all-to-all"),
    ],
)
def test_of_an_asynchronous_collective_only_the_result_is_counted(
    line, kind, shape, tensors, size
):
    text = f"HloModule main\n\nENTRY %main (a: f32[8]) -> f32[8] {{\n  {line}\n}}\n"
    (found,) = compiled_hlo.count_collectives(text, 2)
    assert found == CompiledCollective(
        *(kind, 2, "float32", shape, tensors, size, 1), per_iteration=False
    )


def test_a_computation_that_runs_asynchronously_is_counted_once():
    text = """HloModule main

%wrapped (p: f32[8]) -> f32[4] {
  ROOT %r = f32[4]{0} reduce-scatter(f32[8] %p), replica_groups={{0,1}}, to_apply=%add
}

ENTRY %main (a: f32[8]) -> f32[4] {
  %start = ((f32[8]{0}), f32[4]{0}, u32[]) async-start(f32[8] %a), calls=%wrapped
  ROOT %done = f32[4]{0} async-done(((f32[8]{0}), f32[4]{0}, u32[]) %start), calls=%wrapped
}
"""
    (found,) = compiled_hlo.count_collectives(text, 2)
    assert (found.kind, found.bytes, found.count) == ("reduce_scatter", 16, 1)


def test_a_loop_in_a_loop_multiplies():
    nested = TEXT.replace(
        "ROOT %tuple.1",
        "%w = (s32[], f32[]) while((s32[], f32[]) %t), condition=%condition.6, body=%inner\n"
        "  ROOT %tuple.1",
    ).replace("%unused (", "%inner (")
    counts = {item.shape: item.count for item in compiled_hlo.count_collectives(nested, 8)}
    assert counts[(9,)] == 9


DATA_DEPENDENT = TEXT.replace(
    "ROOT %compare.1 = ",
    "ROOT %and.1 = pred[] and(pred[] %compare.1, pred[] %not.1)\n  %compare.1 = ",
)


def test_a_loop_that_its_data_end_counts_one_iteration():
    """Decoding stops at a length, or when all sequences have ended."""
    counts = {
        item.kind: (item.count, item.per_iteration)
        for item in compiled_hlo.count_collectives(DATA_DEPENDENT, 8)
    }
    assert counts == {
        "all_to_all": (1, True),
        "all_reduce": (1, False),
        "collective_permute": (1, False),
    }


def test_a_loop_with_a_constant_length_in_one_that_its_data_end():
    """The inner loop has the condition of the outer one in TEXT: 3 runs per iteration."""
    nested = DATA_DEPENDENT.replace(
        "ROOT %tuple.1",
        "%w = (s32[], f32[]) while((s32[], f32[]) %t), condition=%constant, body=%inner\n"
        "  ROOT %tuple.1",
    ).replace("%unused (", "%inner (")
    start, end = TEXT.index("%condition.6 ("), TEXT.index("%unused (")
    nested += TEXT[start:end].replace("%condition.6", "%constant")
    counts = {
        (item.shape, item.count, item.per_iteration)
        for item in compiled_hlo.count_collectives(nested, 8)
    }
    assert ((9,), 3, True) in counts


@pytest.mark.parametrize("change", [("direction=LT", "direction=NE"), ("constant(3)", "a(3)")])
def test_a_loop_without_a_known_number_of_runs_counts_one_iteration(change):
    counted = compiled_hlo.count_collectives(TEXT.replace(*change), 8)
    assert [item.per_iteration for item in counted].count(True) == 1
