"""The compiler's messages about programs that are too large, as libtpu 0.0.2 writes them."""

from __future__ import annotations

import pytest

from mtf_switch.programs import compilation, operation_names
from mtf_switch.programs.compilation import Allocation, CompiledBytes

GIB = 2**30
TOO_LARGE = """XlaRuntimeError: RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space hbm. Used 18.00G of 15.48G hbm. Exceeded hbm capacity by 2.52G.

Total hbm usage >= 18.52G:
    reserved        530.00M
    program           9.00G
    arguments         9.00G

Program hbm requirement 9.00G:
    HLO temp          9.00G (100.0% utilization: Unpadded (9.00G) Padded (9.00G), 0.0% fragmentation (0B))

  Largest program allocations in hbm:

  1. Size: 4.50G
     Operator: op_name="decoder/block_001/layer_002/SwitchFFN/einsum_3/einsum/Einsum" source_file="a.py"
     Shape: bf16[49152,49152]{1,0:T(8,128)(2,1)}
     Unpadded size: 4.50G
     ==========================

  2. Size: 512.50M
     Shape: f32[128]{0}
     ==========================

"""
ONE_TENSOR = (
    "XlaRuntimeError: RESOURCE_EXHAUSTED: Allocation (size=19327352832) would exceed memory "
    "(size=17179869184) :: #allocation6 [shape = 'bf16[98304,98304]{1,0:T(8,128)(2,1)}', "
    "space=hbm, size = 0xffffffffffffffff, tag = 'output of fusion.1@{}'] :: <no-hlo>"
)
TEMPORARIES = "RESOURCE_EXHAUSTED: HLO temporaries (18.75G) exceeds available HBM (15.48G)"


def test_a_refusal_names_the_needed_memory_and_the_largest_allocations():
    refusal = compilation.read_refusal(TOO_LARGE)
    assert refusal.needed_bytes == 18 * GIB
    assert compilation.read_usable(TOO_LARGE) == int(15.48 * GIB)
    assert refusal.largest == (
        Allocation(
            int(4.5 * GIB),
            "bf16[49152,49152]{1,0:T(8,128)(2,1)}",
            "decoder/block_001/layer_002/SwitchFFN/einsum_3/einsum/Einsum",
        ),
        Allocation(int(512.5 * 2**20), "f32[128]{0}", ""),
    )


def test_a_tensor_larger_than_the_memory_is_a_refusal_too():
    refusal = compilation.read_refusal(ONE_TENSOR)
    assert refusal.needed_bytes == 18 * GIB
    assert refusal.largest == (
        Allocation(18 * GIB, "bf16[98304,98304]{1,0:T(8,128)(2,1)}", ""),
    )
    assert compilation.read_usable(ONE_TENSOR) is None


def test_temporaries_that_are_too_large_are_a_refusal():
    assert compilation.read_refusal(TEMPORARIES).needed_bytes == int(18.75 * GIB)
    assert compilation.read_usable(TEMPORARIES) == int(15.48 * GIB)


def test_a_hopeless_program_is_refused_early():
    message = (
        "RESOURCE_EXHAUSTED: Compilation failure: Aborting compilation early because it's "
        "unlikely to have enough device memory. Requires 530.59G, has 14.71G available. If more"
    )
    refusal = compilation.read_refusal(message)
    assert (refusal.needed_bytes, refusal.largest) == (int(530.59 * GIB), ())


def test_a_refusal_in_other_words_is_still_a_refusal():
    assert compilation.read_refusal("RESOURCE_EXHAUSTED: no room").needed_bytes is None


def test_another_message_is_no_refusal():
    assert compilation.read_refusal("INVALID_ARGUMENT: Topology layout") is None


@pytest.mark.parametrize(
    ("operation", "layer"),
    [
        (
            "encoder/block_000/layer_001/SwitchFFN/reshape_5/AllToAll",
            "encoder/block_000/layer_001/SwitchFFN",
        ),
        ("decoder/block_011/layer_000/einsum", "decoder/block_011/layer_000"),
        ("softmax_cross_entropy_with_logits/exp", ""),
    ],
)
def test_the_layer_of_an_operation_is_part_of_its_name(operation, layer):
    assert operation_names.find_layer(operation) == layer


def test_donated_outputs_take_no_memory_of_their_own():
    sizes = CompiledBytes(arguments=100, outputs=90, donated=80, temporaries=7, code=5)
    assert sizes.total == 100 + 10 + 7 + 5
