"""Memory on each core, by hand, and the planner's messages for models that do not fit."""

from __future__ import annotations

from pod_hardware import read_hardware

from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.planning import core_memory
from mtf_switch.planning.core_memory import StepBatch, VariableSize

BATCH = StepBatch(sequences=64, sequence_length=512)
# 64 GiB of float32 parameters.
EXPERTS = VariableSize("experts", (("experts", 128), ("d_model", 2**27)), 4)


def test_a_model_too_large_says_by_how_much_and_what_would_fit():
    """64 GiB of experts on 8 cores of 15.48 GiB: 8 GiB each, their gradients 4, activations 8."""
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    rest = {"gradients": 4 * 2**30, "activations": 8 * 2**30}
    memory = core_memory.measure_memory([EXPERTS], layout, rest)
    assert memory["experts"] == 8 * 2**30
    assert memory["gradients"] == 4 * 2**30
    assert sum(memory.values()) == 20 * 2**30
    said = core_memory.describe_fit([EXPERTS], memory, layout, BATCH, read_hardware())
    assert said == (
        "It does not fit: it needs 20.00 GiB per core, 4.52 GiB more than the 15.48 GiB that a "
        "program can use of a TPU v3 core. To make it fit, use microbatches of 2 sequences per "
        "core instead of 8 "
        "(--gin_param='utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = "
        "1024'), or a mesh of 32 cores with the same rules (data:32)."
    )


def test_on_a_larger_mesh_each_core_keeps_a_smaller_part_of_the_activations():
    """24 GiB of activations on 8 cores are 6 GiB on 32, next to 3 of experts and gradients."""
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    rest = {"gradients": 4 * 2**30, "activations": 24 * 2**30}
    memory = core_memory.measure_memory([EXPERTS], layout, rest)
    said = core_memory.describe_fit([EXPERTS], memory, layout, BATCH, read_hardware())
    assert "20.52 GiB more than the 15.48 GiB" in said
    # A core has space for 4 of 24 GiB: one of its 8 sequences.
    assert "use microbatches of 1 sequence per core instead of 8" in said
    assert said.endswith("or a mesh of 32 cores with the same rules (data:32).")


def test_a_model_that_fits_no_mesh_with_these_rules_is_reported():
    layout = MeshLayout.parse("data:8", "batch:data,batch_unsplit:data")
    memory = core_memory.measure_memory([EXPERTS], layout, {"gradients": 32 * 2**30})
    said = core_memory.describe_fit([EXPERTS], memory, layout, BATCH, read_hardware())
    assert "it needs 96.00 GiB per core, 80.52 GiB more than the 15.48 GiB" in said
    assert "No mesh of up to 2048 cores with these rules can hold it: split more" in said


def test_microbatches_are_not_advised_if_not_even_one_sequence_per_core_fits():
    """200 GiB of activations are 25 for one of a core's 8 sequences, and 25 on 64 cores too."""
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    memory = core_memory.measure_memory([EXPERTS], layout, {"activations": 200 * 2**30})
    said = core_memory.describe_fit([EXPERTS], memory, layout, BATCH, read_hardware())
    assert "microbatches" not in said
    assert "No mesh of up to 2048 cores with these rules can hold it" in said


def test_a_microbatch_of_one_sequence_per_core_is_not_divided_further():
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    memory = core_memory.measure_memory([EXPERTS], layout, {"activations": 8 * 2**30})
    batch = StepBatch(sequences=8, sequence_length=512)
    assert "microbatches" not in core_memory.suggest_fixes(
        [EXPERTS], memory, layout, batch, read_hardware()
    )


def test_a_step_that_does_not_train_is_not_advised_to_use_microbatches():
    """8 GiB of experts leave room for 7.48 of 8 GiB of activations."""
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    memory = core_memory.measure_memory([EXPERTS], layout, {"activations": 8 * 2**30})
    batch = StepBatch(sequences=64, sequence_length=512, trains=False)
    said = core_memory.suggest_fixes([EXPERTS], memory, layout, batch, read_hardware())
    assert said == (
        "To make it fit, use a smaller batch (--batch_tokens), or a mesh of 32 cores with the "
        "same rules (data:32)."
    )


def test_memory_that_is_just_enough_fits():
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    # 8 GiB of experts, 4 of gradients, and all of the rest; the compiler reserves 530 MiB.
    rest = (16 - 8 - 4) * 2**30 - 530 * 2**20
    memory = core_memory.measure_memory(
        [EXPERTS], layout, {"gradients": 4 * 2**30, "activations": rest}
    )
    said = core_memory.describe_fit([EXPERTS], memory, layout, BATCH, read_hardware())
    assert said == (
        "It fits: it needs 15.48 GiB per core, and a program can use 15.48 GiB of a TPU v3 core."
    )


def test_bytes_are_formatted_for_people():
    assert [core_memory.format_bytes(n) for n in (5, 2048, 3 * 2**20, 5.5 * 2**30)] == [
        *("5 B", "2.00 KiB", "3.00 MiB", "5.50 GiB")
    ]
