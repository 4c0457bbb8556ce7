"""The pod's graph: what a TPU is documented to run, with static shapes, for every layout."""

from __future__ import annotations

import json
import subprocess
import sys
import types

import model_files
import pytest
import tensorflow.compat.v1 as tf
from model_files import read_stated_size
from strategies import STRATEGIES

from mtf_switch.config import gin_config, gin_files, run_settings
from mtf_switch.planning import planner, pod_census, pod_graph
from mtf_switch.planning.communication import BACKWARD, FORWARD, UPDATE

# Graph operators that "Available TensorFlow Ops" of Cloud TPU's documentation lists
# (cloud.google.com/tpu/docs/tensorflow-ops), those of them that a training graph may need.
DOCUMENTED = {
    *("Abs", "Add", "AddN", "AddV2", "ArgMax", "BatchMatMul", "BatchMatMulV2", "BiasAdd"),
    *("BroadcastTo", "Cast", "Ceil", "ConcatV2", "Const", "CrossReplicaSum", "Cumsum", "Div"),
    *("Einsum", "Equal", "Erf", "Exp", "ExpandDims", "Fill", "Floor", "FloorDiv", "FloorMod"),
    *("Gather", "GatherV2", "Greater", "GreaterEqual", "Identity", "IdentityN", "Less"),
    *("LessEqual", "Log", "LogicalAnd", "LogicalNot", "LogicalOr", "MatMul", "Max", "Maximum"),
    *("Mean", "Min", "Minimum", "Mul", "Neg", "NoOp", "NotEqual", "OneHot", "Pack", "Pad"),
    *("Pow", "Prod", "Range"),
    *("ReadVariableOp", "RealDiv", "Reciprocal", "Relu", "ReluGrad", "Reshape", "Rsqrt"),
    *("Select", "SelectV2", "Shape", "Sigmoid", "Sign", "Slice", "Softmax", "Split", "Sqrt"),
    *("Square", "SquaredDifference", "Squeeze", "StatelessRandomNormal"),
    *("StatelessRandomUniform", "StatelessTruncatedNormal", "StopGradient", "StridedSlice"),
    *("Sub", "Sum"),
    *("Tanh", "Tile", "TopKV2", "Transpose", "TruncatedNormal", "Unpack", "VarHandleOp"),
    *("While", "ZerosLike", "AssignAddVariableOp", "AssignSubVariableOp", "AssignVariableOp"),
}
# Documented as operations of TPUs themselves (tensorflow.org/api_docs/python/tf/raw_ops).
OF_TPUS = {"AllToAll", "CollectivePermute"}
# Loops as functional operators; TensorFlow turns one into the other before it compiles.
LOOPS = {"StatelessWhile"}
# What stands for the pod: features, the number of the core, slices of variables.
INPUTS = {"Placeholder"}
ALLOWED = DOCUMENTED | OF_TPUS | LOOPS | INPUTS


def _on(layout, data=None, model=None):
    """A layout's file, and the sizes of its mesh where the file has others."""
    sizes = {"data": data, "model": model}
    return layout, *(f"mesh.{axis} = {size}" for axis, size in sizes.items() if size)


# A mesh that suits it for every model of gin/models/.
FULL_SIZE = {
    "t5_base": _on("data"),
    "t5_large": _on("model_data"),
    "t5_xxl": _on("model_data", data=32, model=16),
    "mt5_base": _on("model_data"),
    "switch_base_2": _on("expert_data", data=2),
    "switch_base_4": _on("expert_data", data=4),
    "switch_base_8": _on("expert_8"),
    "switch_base_16": _on("expert_8"),
    "switch_base_32": _on("expert_32"),
    "switch_base_64": _on("expert_32"),
    "switch_base": _on("expert_32"),
    "switch_base_256": _on("expert_32"),
    "switch_base_plus": _on("expert_32"),
    "switch_base_frequency_1": _on("expert_32"),
    "switch_base_released": _on("expert_32"),
    "mswitch_base": _on("expert_32"),
    "switch_large": _on("expert_model_512"),
    "switch_large_released": _on("expert_model_512"),
    "switch_xxl": _on("expert_model_2048"),
    "switch_xxl_released": _on("expert_model_2048"),
    "switch_xxl_64_experts": _on("expert_model_data", data=64, model=16),
    "switch_c": _on("expert_2048"),
    "switch_c_released": _on("expert_2048"),
}


def program(pod: pod_graph.PodGraph) -> list[tf.Operation]:
    """The operations that a training step runs on a core: all that its updates depend on."""
    seen, waiting = set(), [pod.train_op]
    while waiting:
        operation = waiting.pop()
        if operation in seen:
            continue
        seen.add(operation)
        waiting += [*operation.control_inputs, *(tensor.op for tensor in operation.inputs)]
        for attribute in ("body", "cond"):
            if operation.type in ("While", "StatelessWhile"):
                name = operation.get_attr(attribute).name
                waiting += pod.tf_graph._get_function(name).graph.get_operations()
    return list(seen)


def assert_ready_for_a_tpu(pod: pod_graph.PodGraph) -> None:
    operations = program(pod)
    others = sorted({op.type for op in operations} - ALLOWED)
    assert not others, f"not among what Cloud TPU documents: {others}"
    dynamic = [
        tensor.name
        for operation in operations
        for tensor in operation.outputs
        if tensor.dtype != tf.resource
        and not tensor.shape.is_fully_defined()
        # What a loop's condition is handed and does not read has no shape there.
        and "redundant_placeholder" not in tensor.name
    ]
    assert not dynamic
    assert not [op.type for op in operations for t in op.outputs if t.dtype == tf.string]
    collectives = {op for op in operations if op.type in pod_census.KIND_OF_OPERATION}
    # The program is whole: it holds the exchanges of forward and backward passes.
    assert sum("/gradients" in op.name for op in collectives) > 3


def build(
    *files: str, params: tuple[str, ...] = (), vocabulary: int = planner.T5_VOCABULARY_SIZE
) -> pod_graph.PodGraph:
    settings = planner.parse_settings(files, params)
    return pod_graph.build(settings, types.SimpleNamespace(vocab_size=vocabulary))


@pytest.mark.parametrize("microbatches", [1, 2])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_tiny_model_is_ready_for_a_tpu_under_every_strategy(strategy, microbatches, tmp_path):
    tokens = 8 // run_config_ways(strategy) // microbatches * 512
    pod = build(
        "models/switch_base.gin",
        f"layouts/{strategy}.gin",
        params=(
            *("d_model = 16", "d_ff = 32", "num_heads = 8", "d_kv = 8", "num_experts = 8"),
            "transformer.make_layer_stack.num_layers = 1",
            "utils.run.batch_size = 8",
            "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = "
            f"{tokens if microbatches > 1 and tokens >= 512 else None}",
        ),
    )
    assert_ready_for_a_tpu(pod)


def run_config_ways(strategy: str) -> int:
    """Over how many cores a strategy's file splits the batch."""
    gin_config.parse([f"layouts/{strategy}.gin"], ["MIXTURE_NAME = 'x'", "num_layers = 1"])
    return run_settings.from_gin().layout.ways("batch")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] * (n != "switch_base_8")) for n in FULL_SIZE],
)
def test_full_size_models_are_ready_for_a_tpu(name):
    layout, *params = FULL_SIZE[name]
    parameters, vocabulary = read_stated_size(f"models/{name}.gin")
    files = (f"models/{name}.gin", f"layouts/{layout}.gin")
    pod = build(*files, params=tuple(params), vocabulary=vocabulary)
    assert_ready_for_a_tpu(pod)
    assert sum(variable.size for variable in pod.variables if variable.trainable) == parameters


def test_every_full_size_model_has_its_mesh():
    assert set(FULL_SIZE) == {path.stem for path in model_files.FULL_SIZE}


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["data", "model_data"])
def test_switch_base_is_ready_for_a_tpu_without_expert_parallelism(layout):
    assert_ready_for_a_tpu(build("models/switch_base.gin", f"layouts/{layout}.gin"))


@pytest.mark.slow
def test_switch_c_on_a_whole_pod_is_planned_within_a_minute_and_4_gb():
    """1571B parameters on 2048 cores, in a process of its own."""
    done = subprocess.run(
        [
            *(sys.executable, "run_switch.py", "plan", "--json"),
            *("--gin_file=gin/models/switch_c.gin", "--gin_file=gin/layouts/expert_2048.gin"),
        ],
        cwd=gin_files.REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    plan = json.loads(done.stdout)
    assert plan["parameters"] == pytest.approx(1571e9, rel=0.005)
    assert plan["cores"] == 2048
    assert plan["seconds_to_plan"] < 60
    assert plan["peak_rss_bytes"] < 4e9
    exchanges = [item for item in plan["collectives"] if item["kind"] == "all_to_all"]
    # Two in each direction for each of 30 sparse layers: E x C x d_model in bfloat16.
    assert sum(item["count"] for item in exchanges) == 120
    assert sum(item["operand_bytes"] for item in exchanges) == 120 * 2048 * 2 * 2080 * 2
    assert plan["fits"]


def test_the_graph_is_the_one_that_the_model_function_builds_for_a_tpu(monkeypatch):
    """Nothing is rebuilt here: upstream's model function makes the graph, optimizer and all."""
    from mtf_switch.runs import estimator

    calls = []
    original = estimator.utils.tpu_estimator_model_fn

    def noting(*args, **kwargs):
        calls.append(kwargs)
        return original(*args, **kwargs)

    monkeypatch.setattr(estimator.utils, "tpu_estimator_model_fn", noting)
    pod = build(
        "models/switch_base.gin",
        "layouts/expert_8.gin",
        params=(
            *("d_model = 16", "d_ff = 32", "num_heads = 2", "d_kv = 8", "num_experts = 8"),
            *("transformer.make_layer_stack.num_layers = 1", "utils.run.batch_size = 8"),
        ),
    )
    (call,) = calls
    assert call["use_tpu"]
    assert call["autostack"]
    phases = set(pod.phases.values())
    assert phases == {FORWARD, BACKWARD, UPDATE}
    slots = [v for v in pod.variables if "_slot_" in v.name]
    assert len(slots) > 5
    # SimdMeshImpl is itself again.
    import mesh_tensorflow as mtf

    assert mtf.simd_mesh_impl.__name__ == "mesh_tensorflow.simd_mesh_impl"
