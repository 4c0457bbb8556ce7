"""The planner: against the paper's numbers, and what it says of meshes that do not fit."""

from __future__ import annotations

import json
import types

import pytest

from mtf_switch.config import gin_config, mesh_layout
from mtf_switch.config.mesh_layout import MeshLayout
from mtf_switch.planning import core_memory, hardware, plan_report, planner, pod_census
from mtf_switch.planning.communication import ALL_REDUCE, ALL_TO_ALL, Collective
from mtf_switch.planning.core_memory import StepBatch, VariableSize

TINY = """
include 'models/bi_v1.gin'
import mtf_switch.layers.switch_ffn
d_model = 16
d_ff = 32
num_layers = 1
num_heads = 4
d_kv = 8
dropout_rate = 0.0
SwitchFFN.num_experts = 32
encoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention,
    @transformer_layers.DenseReluDense,
    @SwitchFFN,
]
decoder/transformer.make_layer_stack.layers = [
    @transformer_layers.SelfAttention,
    @transformer_layers.EncDecAttention,
    @SwitchFFN,
]
utils.run.sequence_length = {'inputs': 32, 'targets': 16}
utils.run.batch_size = 32
"""
V3 = "hardware/tpu_v3.gin"


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("planner") / "tiny_planned.gin"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="module")
def planned(model_file):
    return planner.make_plan(planner.parse_settings([model_file, "layouts/expert_8.gin"], []))


def tpu(name: str = "tpu_v3") -> hardware.Hardware:
    gin_config.parse([f"hardware/{name}.gin"], [])
    return hardware.Hardware()


def test_bytes_of_each_group_by_hand(planned):
    vocabulary, attention = 32128, 3 * 4 * 16 * 32  # three layers of four matrices
    experts, biases = 2 * 32 * 2 * 16 * 32, 2 * 32 * 4
    assert planned.parameters == {
        "embedding": vocabulary * 16,
        "attention": attention + biases,
        "dense_ffn": 2 * 16 * 32,
        "experts": experts,
        "router": 2 * 16 * 32,
        "other": 8 * 16,
    }
    # In float32; of 32 experts each of 8 cores holds 4.
    assert planned.memory["experts"] == 4 * experts // 8
    assert planned.memory["attention"] == 4 * (attention + biases)
    # Gradients are in bfloat16, the router's in float32.
    whole = sum(planned.parameters.values()) - experts + planned.parameters["router"]
    assert planned.memory["gradients"] == 2 * (whole + experts // 8)
    assert planned.total_bytes == sum(planned.memory.values())
    assert 0 < planned.memory["activations"] <= planned.activations_unfused


def test_flops_of_a_sequence_are_those_of_the_other_count(planned, model_file):
    from mtf_switch.model import flops, switch_transformer

    settings = planner.parse_settings([model_file, "layouts/expert_8.gin"], [])
    vocabulary = types.SimpleNamespace(vocab_size=planner.T5_VOCABULARY_SIZE)
    cost = flops.compute_cost(switch_transformer.build(settings, vocabulary), settings)
    assert planned.flops_per_sequence == cost.flops_per_sequence
    assert sum(planned.parameters.values()) == cost.parameters
    # Each core does a part of the forward products, and none twice.
    forward = planned.core_flops["forward"] * 8 / planned.sequences
    assert forward == pytest.approx(cost.arithmetic_per_sequence, rel=0.01)
    assert planned.core_flops["backward"] == pytest.approx(
        2 * planned.core_flops["forward"], rel=0.1
    )


def test_microbatches_change_neither_flops_nor_weights(planned, model_file):
    settings = planner.parse_settings(
        [model_file, "layouts/expert_8.gin"],
        ["utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = 64"],
    )
    halves = planner.make_plan(settings)
    assert (planned.microbatches, halves.microbatches) == (1, 2)
    assert halves.flops_per_sequence == planned.flops_per_sequence
    assert halves.parameters == planned.parameters
    assert halves.memory["activations"] < 0.6 * planned.memory["activations"]


def test_the_command_prints_one_json_object_and_writes_a_folder(tiny, model_file, tmp_path):
    folder = tmp_path / "plan"
    arguments = ["plan", f"--gin_file={model_file}", "--gin_file=gin/layouts/expert_8.gin"]
    result = tiny.command(*arguments, "--json", f"--output_dir={folder}", "--batch_tokens=2048")
    assert result.code == 0, result.err
    printed = json.loads(result.out)
    for key in (
        *("parameters", "flops_per_sequence", "cores", "per_core", "collectives", "estimate"),
        *("seconds_to_plan", "peak_rss_bytes"),
    ):
        assert key in printed
    assert (printed["cores"], printed["batch_tokens"]) == (8, 2048)
    groups = {k: v for k, v in printed["per_core"].items() if k != "total_bytes"}
    assert printed["per_core"]["total_bytes"] == sum(groups.values())
    for item in printed["collectives"]:
        assert {
            "kind",
            "axis",
            "dtype",
            "shape",
            "count",
            "operand_bytes",
            "wire_bytes",
        } <= set(item)
    assert json.loads((folder / "plan.json").read_text()) == printed
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert "It fits" in (folder / "plan.txt").read_text()
    again = tiny.command(*arguments, f"--output_dir={folder}")
    assert again.code == 1
    assert "plan.json already exists. Choose another --output_dir" in again.err


def test_layouts_are_compared_and_one_is_recommended(tiny, model_file, tmp_path):
    folder = tmp_path / "compared"
    layouts = ["layouts/expert_8.gin", "layouts/expert_model_data.gin"]
    result = tiny.command(
        "plan", f"--gin_file={model_file}", f"--output_dir={folder}", "--compare", *layouts
    )
    assert result.code == 0, result.err
    data = json.loads((folder / "compare.json").read_text())
    assert list(data["plans"]) == layouts
    steps = {n: p["estimate"]["step_seconds"] for n, p in data["plans"].items()}
    assert data["recommendation"].startswith(
        f"Recommended: {min(steps, key=steps.get)}. Of the layouts that fit"
    )
    assert data["recommendation"] in result.out
    assert all(result.out.count(name) >= 1 for name in layouts)
    assert (folder / "compare.png").exists()


def test_a_mesh_of_one_core_has_nothing_to_plan(tiny, model_file):
    result = tiny.command("plan", f"--gin_file={model_file}")
    assert result.code == 1
    assert "name a layout, such as --gin_file=layouts/expert_32.gin" in result.err


def test_a_plan_without_a_model_says_which_flag_names_one(tiny):
    result = tiny.command("plan")
    assert result.code == 1
    assert "pass --gin_file, such as --gin_file=models/switch_c.gin" in result.err


def test_a_mesh_that_is_no_slice_of_the_hardware_is_refused(tiny, model_file):
    result = tiny.command(
        *("plan", f"--gin_file={model_file}", "--gin_file=layouts/expert_data.gin"),
        "--gin_param=mesh.data = 16",
    )
    assert result.code == 1
    assert "The mesh has 16 cores" in result.err
    assert "there is no TPU v3 slice of that size. The slices have 8, 32, 64" in result.err
    assert "the nearest sizes are 8 and 32." in result.err


def test_a_layout_that_names_an_axis_that_the_mesh_lacks_is_refused(tiny, model_file):
    result = tiny.command(
        *("plan", f"--gin_file={model_file}", "--gin_file=layouts/expert_8.gin"),
        "--gin_param=utils.run.layout_rules = 'batch:data,experts:expert'",
    )
    assert result.code == 1
    assert "names a mesh axis 'expert', and the mesh has none: its axes are data" in result.err


BATCH = StepBatch(sequences=64, sequence_length=512)


def test_a_model_too_large_says_by_how_much_and_what_would_fit():
    """64 GiB of experts on 8 cores of 16 GiB: 8 GiB each, their gradients 4, activations 8."""
    layout = MeshLayout.parse("data:8", "batch:data,experts:data")
    experts = [VariableSize("experts", (("experts", 128), ("d_model", 2**27)), 4, 2)]
    memory = core_memory.measure_memory(experts, 8 * 2**30, layout)
    assert memory["experts"] == 8 * 2**30
    assert memory["gradients"] == 4 * 2**30
    said = core_memory.describe_fit(experts, memory, layout, BATCH, tpu())
    assert said == (
        "It does not fit: it needs 20.00 GiB per core, 4.00 GiB more than the 16.00 GiB of a "
        "TPU v3 core. To make it fit, use microbatches of 4 sequences per core instead of 8 "
        "(--gin_param='utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = "
        "2048'), or a mesh of 32 cores with the same rules (data:32)."
    )


def test_a_model_that_no_mesh_with_these_rules_holds_is_told_so():
    layout = MeshLayout.parse("data:8", "batch:data,batch_unsplit:data")
    experts = [VariableSize("experts", (("experts", 128), ("d_model", 2**27)), 4, 2)]
    memory = core_memory.measure_memory(experts, 0, layout)
    said = core_memory.describe_fit(experts, memory, layout, BATCH, tpu())
    assert "it needs 96.00 GiB per core, 80.00 GiB more than the 16.00 GiB" in said
    assert "No mesh of up to 2048 cores with these rules can hold it: split more" in said


@pytest.mark.parametrize("name", ["tpu_v3", "tpu_v4"])
def test_a_pods_peak_and_all_reduce_are_those_of_its_source(name):
    """What cloud.google.com/tpu/docs states of a whole pod follows from the file's chips."""
    pod = tpu(name)
    chips = max(pod.slices) / pod.cores_per_chip
    petaflops, terabytes = {"tpu_v3": (126e15, 340e12), "tpu_v4": (1.1e18, 1.1e15)}[name]
    assert chips * pod.chip_flops == pytest.approx(petaflops, rel=0.03)
    assert chips * pod.chip_link_bandwidth == pytest.approx(terabytes, rel=0.03)


def test_exchanges_take_as_long_as_their_wires_say():
    pod = tpu()
    reduce_ = Collective(ALL_REDUCE, "data", 2048, "float32", (2**20,), "backward", 10)
    # Ten times 4 MiB by a ring; two cores share the links of a chip.
    seconds = 10 * 2 * (2047 / 2048) * 2**22 * 2 / pod.chip_link_bandwidth
    assert pod.collective_seconds(reduce_, 2048) == pytest.approx(seconds)
    # Two chips are joined in one of two dimensions.
    pair = Collective(ALL_REDUCE, "model", 4, "float32", (2**20,), "backward", 1)
    seconds = 2 * 3 / 4 * 2**22 * 2 / (pod.chip_link_bandwidth / 2)
    assert pod.collective_seconds(pair, 4) == pytest.approx(seconds)
    # All-to-all over a whole pod: a quarter of all that the chips hold crosses its middle.
    exchange = Collective(ALL_TO_ALL, "data", 2048, "bfloat16", (2**20,), "forward", 1)
    assert pod.collective_seconds(exchange, 2048) == pytest.approx(
        2048 * 2 * 2**20 / 4 / pod.pod_bisection_bandwidth
    )


def test_the_span_of_an_axis_holds_the_axes_inside_it():
    layout = MeshLayout.parse("data:4,model:2", "batch:data,d_ff:model")
    assert [
        hardware.compute_span(layout, axis) for axis in ("data", "model", "data+model")
    ] == [
        8,
        2,
        8,
    ]


@pytest.mark.parametrize(
    ("name", "group"),
    [
        ("encoder/block_000/layer_000/SelfAttention/q", "attention"),
        ("decoder/block_000/layer_001/EncDecAttention/o", "attention"),
        ("encoder/block_000/layer_000/SelfAttention/relative_attention_bias", "attention"),
        ("encoder/block_000/layer_001/DenseReluDense/wi_0/kernel", "dense_ffn"),
        ("stacked/encoder/block_000/layer_003/SwitchFFN/wi/kernel", "experts"),
        ("encoder/block_000/layer_003/SwitchFFN/switch_gating/kernel", "router"),
        ("encoder/block_000/layer_003/SwitchFFN/wi/kernel_slot_vr", "optimizer_slots"),
        ("encoder/block_000/layer_003/rms_norm/scale", "other"),
        ("shared/embedding", "embedding"),
        ("decoder/logits/kernel", "embedding"),
    ],
)
def test_variables_are_grouped_by_their_names(name, group):
    assert pod_census.classify_variable(name) == group


def test_reading_sizes():
    assert [core_memory.format_bytes(n) for n in (5, 2048, 3 * 2**20, 5.5 * 2**30)] == [
        *("5 B", "2.00 KiB", "3.00 MiB", "5.50 GiB")
    ]
    assert [plan_report.format_seconds(s) for s in (0.0482, 1.5)] == ["48.2 ms", "1.50 s"]
    assert mesh_layout.mesh(4, 2) == "data:4,model:2"
