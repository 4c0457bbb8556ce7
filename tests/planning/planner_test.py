"""The planner and its command: counts by hand, and the messages for wrong meshes."""

from __future__ import annotations

import json
import types

import model_files
import pytest

from mtf_switch.model import flops, switch_transformer
from mtf_switch.planning import planner

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
utils.run.batch_size = 16
"""
# 32 sequences, where the file has 16.
BATCH_TOKENS = 1024


@pytest.fixture(scope="module")
def model_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("planner") / "tiny_planned.gin"
    path.write_text(TINY)
    return str(path)


@pytest.fixture(scope="module")
def command(model_file, tmp_path_factory):
    """The arguments of a `plan` command, and the folder that it writes."""
    folder = tmp_path_factory.mktemp("planned") / "plan"
    arguments = (
        *("plan", f"--gin_file={model_file}", "--gin_file=gin/layouts/expert_8.gin"),
        *("--json", f"--output_dir={folder}", f"--batch_tokens={BATCH_TOKENS}"),
    )
    return arguments, folder


@pytest.fixture(scope="module")
def planned(tiny, command):
    """The JSON object that the command prints."""
    result = tiny.command(*command[0])
    assert result.code == 0, result.err
    return json.loads(result.out)


@pytest.fixture
def settings(model_file):
    return planner.parse_settings([model_file, "layouts/expert_8.gin"], [], BATCH_TOKENS)


def test_bytes_of_each_group_by_hand(planned):
    vocabulary, attention = 32128, 3 * 4 * 16 * 32  # three layers of four matrices
    experts, biases = 2 * 32 * 2 * 16 * 32, 2 * 32 * 4
    assert planned["parameters_by_group"] == {
        "embedding": vocabulary * 16,
        "attention": attention + biases,
        "dense_ffn": 2 * 16 * 32,
        "experts": experts,
        "router": 2 * 16 * 32,
        "other": 8 * 16,
    }
    assert planned["parameters"] == sum(planned["parameters_by_group"].values())
    memory = planned["per_core"]
    # In float32. Each of 8 cores holds 4 of 32 experts.
    assert memory["experts"] == 4 * experts // 8
    assert memory["attention"] == 4 * (attention + biases)
    # One batch without microbatches: its fullest moment is the start of the backward pass, with
    # the gradient of the embedding, in bfloat16. All weights are stacked but the embedding and
    # those of the only dense layer; routers compute in float32 and have no copies.
    assert memory["gradients"] == 0
    assert memory["weight_copies"] == 2 * (attention + biases + experts // 8 + 8 * 16)
    assert memory["workspace"] == 2 * vocabulary * 16
    assert memory["code"] > 0
    assert 0 < memory["activations"] < planned["activations_if_nothing_is_fused"]
    assert memory["total_bytes"] == sum(memory[group] for group in memory) // 2


def test_flops_of_a_sequence_are_those_of_the_other_count(planned, settings):
    vocabulary = types.SimpleNamespace(vocab_size=model_files.T5_VOCABULARY_SIZE)
    cost = flops.compute_cost(switch_transformer.build(settings, vocabulary), settings)
    assert planned["flops_per_sequence"] == cost.flops_per_sequence
    assert planned["parameters"] == cost.parameters
    # Each core computes a part of the forward matmuls, and no part is computed twice.
    core_flops = planned["flops_per_core"]
    forward = core_flops["forward"] * 8 / planned["sequences_per_step"]
    assert forward == pytest.approx(cost.arithmetic_per_sequence, rel=0.01)
    assert core_flops["backward"] == pytest.approx(2 * core_flops["forward"], rel=0.1)
    assert planned["flops_per_step"] == 8 * sum(core_flops.values())


def test_microbatches_change_neither_flops_nor_weights(planned, model_file):
    halves = planner.make_plan(
        planner.parse_settings(
            [model_file, "layouts/expert_8.gin"],
            ["utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = 64"],
            BATCH_TOKENS,
        )
    )
    assert (planned["microbatches"], halves.microbatches) == (1, 2)
    assert halves.flops_per_sequence == planned["flops_per_sequence"]
    # Smaller groups round up to another capacity.
    forward = planned["flops_per_core"]["forward"]
    assert halves.core_flops["forward"] == pytest.approx(forward, rel=0.01)
    assert halves.parameters == planned["parameters_by_group"]
    assert halves.memory["activations"] < 0.6 * planned["per_core"]["activations"]


@pytest.fixture(scope="module")
def plan_of_copies(model_file):
    """The plan with two copies of the experts, on cores of which a program can use 20 MiB."""
    reserved = 16 * 2**30 - 20 * 2**20
    files = [model_file, "layouts/expert_8.gin"]
    params = [
        "utils.tpu_estimator_model_fn.outer_batch_size = 2",
        f"Hardware.core_reserved_bytes = {reserved}",
    ]
    return planner.make_plan(planner.parse_settings(files, params, BATCH_TOKENS))


def test_microbatches_are_advised_for_the_sequences_of_one_copy_of_the_experts(plan_of_copies):
    """Each of two copies has 16 of 32 sequences: 2 on each of 8 cores."""
    assert (
        "use microbatches of 1 sequence per core instead of 2 (--gin_param='utils."
        "serialize_num_microbatches.tokens_per_microbatch_per_replica = 32')"
    ) in plan_of_copies.verdict


def test_copies_of_the_experts_do_not_change_the_flops_of_a_sequence(planned, plan_of_copies):
    assert plan_of_copies.flops_per_sequence == planned["flops_per_sequence"]


@pytest.mark.parametrize(("model_type", "tokens"), [("delimited_lm", 32 + 16), ("lm", 16)])
def test_a_language_model_is_planned_for_the_tokens_of_its_only_stack(
    model_file, model_type, tokens
):
    params = [
        f"utils.run.model_type = '{model_type}'",
        "transformer.make_layer_stack.layers = [@transformer_layers.SelfAttention, @SwitchFFN]",
    ]
    files = [model_file, "layouts/expert_8.gin"]
    plan = planner.make_plan(planner.parse_settings(files, params, BATCH_TOKENS))
    matrices, norms = 4 * 16 * 32 + 2 * 16 * 32 + 16 * 32, 3 * 16
    assert plan.flops_per_sequence == tokens * 2 * (matrices + norms)
    assert plan.batch_tokens == 32 * tokens


def test_input_tokens_are_those_of_the_inputs_even_if_targets_are_longer(model_file):
    """1,024 tokens in the longer feature are 32 sequences."""
    params = ["utils.run.sequence_length = {'inputs': 16, 'targets': 32}"]
    files = [model_file, "layouts/expert_8.gin"]
    plan = planner.make_plan(planner.parse_settings(files, params, 1024))
    assert (plan.sequences, plan.batch_tokens) == (32, 32 * 16)
    assert plan.tokens_per_second == 32 * 16 / plan.estimate.step_seconds


def test_the_command_prints_one_json_object_and_writes_a_folder(tiny, command, planned):
    arguments, folder = command
    for key in (
        *("parameters", "flops_per_sequence", "cores", "per_core", "collectives", "estimate"),
        *("seconds_to_plan", "peak_rss_bytes"),
    ):
        assert key in planned
    assert (planned["cores"], planned["batch_tokens"]) == (8, BATCH_TOKENS)
    assert planned["sequences_per_step"] == 32
    groups = {k: v for k, v in planned["per_core"].items() if k != "total_bytes"}
    assert planned["per_core"]["total_bytes"] == sum(groups.values())
    for item in planned["collectives"]:
        assert list(item) == [
            *("kind", "axis", "group", "dtype", "shape", "phase", "count"),
            *("operand_bytes", "wire_bytes"),
        ]
    assert list(planned["estimate"]) == [
        *("hardware", "compute_seconds", "all_to_all_seconds", "all_reduce_seconds"),
        *("binds", "step_seconds", "hbm_bytes"),
    ]
    assert json.loads((folder / "plan.json").read_text()) == planned
    assert (folder / "plan.png").read_bytes().startswith(b"\x89PNG")
    assert "It fits" in (folder / "plan.txt").read_text()
    again = tiny.command(*arguments)
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
        f"Recommended: {min(steps, key=steps.get)}. It processes the most input tokens"
    )
    assert data["recommendation"] in result.out
    assert all(result.out.count(name) >= 1 for name in layouts)
    assert (folder / "compare.png").exists()


def test_a_mesh_of_one_core_has_nothing_to_plan(tiny, model_file):
    result = tiny.command("plan", f"--gin_file={model_file}")
    assert result.code == 1
    assert "Add a layout, such as --gin_file=layouts/expert_32.gin" in result.err


def test_a_plan_without_a_model_says_which_flag_names_one(tiny):
    result = tiny.command("plan")
    assert result.code == 1
    assert "pass --gin_file, such as --gin_file=models/switch_c.gin" in result.err


def test_a_mesh_that_is_not_a_slice_of_the_hardware_is_refused(tiny, model_file):
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
    assert (
        "names a mesh axis 'expert', which the mesh does not have: its axes are data"
        in result.err
    )
