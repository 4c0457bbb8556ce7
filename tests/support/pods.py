"""Small models as a pod would train them, under each strategy of Figure 9."""

from __future__ import annotations

import types

from mtf_switch.planning import planner, pod_graph

BATCH, INPUTS, TARGETS = 16, 32, 16
D_MODEL, HEADS, EXPERTS, GROUP_SIZE = 16, 4, 8, 16
# 16 tokens x 1.25 / 8 experts is 2, but an expert has a capacity of at least 4.
CAPACITY = 4
# Enough layers of each kind that no two numbers of collectives are equal.
LAYERS = {
    "encoder": (
        "[@transformer_layers.SelfAttention, @transformer_layers.DenseReluDense, "
        "@transformer_layers.SelfAttention, @SwitchFFN]"
    ),
    "decoder": (
        "[@transformer_layers.SelfAttention, @transformer_layers.EncDecAttention, "
        "@transformer_layers.EncDecAttention, @SwitchFFN, @SwitchFFN]"
    ),
}
PARAMS = (
    f"d_model = {D_MODEL}",
    f"num_heads = {HEADS}",
    f"num_experts = {EXPERTS}",
    *("d_ff = 32", "d_kv = 8", "dropout_rate = 0.1"),
    "transformer.make_layer_stack.num_layers = 1",
    *(f"{stack}/transformer.make_layer_stack.layers = {v}" for stack, v in LAYERS.items()),
    f"ExpertCapacity.group_size = {GROUP_SIZE}",
    f"utils.run.sequence_length = {{'inputs': {INPUTS}, 'targets': {TARGETS}}}",
    f"utils.run.batch_size = {BATCH}",
)


def build_pod(
    strategy: str, data: int = 1, model: int = 1, microbatches: int = 1
) -> pod_graph.PodGraph:
    """Builds the graph on a mesh of data x model cores, with all noise on.

    Args:
      strategy: The name of a file in gin/layouts/.
      data: Cores of the mesh's data axis.
      model: Cores of its model axis.
      microbatches: Microbatches per step.
    """
    tokens = BATCH // data // microbatches * INPUTS
    settings = planner.parse_settings(
        ["models/switch_base.gin", f"layouts/{strategy}.gin"],
        [
            *PARAMS,
            f"mesh.data = {data}",
            f"mesh.model = {model}",
            "utils.serialize_num_microbatches.tokens_per_microbatch_per_replica = "
            f"{tokens if microbatches > 1 else None}",
        ],
    )
    pod = pod_graph.build(settings, types.SimpleNamespace(vocab_size=500))
    assert pod.microbatches == microbatches
    return pod
