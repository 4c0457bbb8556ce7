"""Table 2: the dtype in which tensors cross cores, read from the program of a pod."""

from __future__ import annotations

import types

import model_files
from mesh_tensorflow.transformer import utils

from mtf_switch.config import gin_config
from mtf_switch.planning import planner, pod_census, pod_graph
from mtf_switch.planning.communication import (
    ALL_REDUCE,
    ALL_TO_ALL,
    BACKWARD,
    FORWARD,
    UPDATE,
)

MODEL, EXPERTS = 24, 8
SIZES = (
    *(f"d_model = {MODEL}", "d_ff = 32", "num_heads = 2", "d_kv = 12", "num_layers = 2"),
    *(f"num_experts = {EXPERTS}", "utils.run.batch_size = 32"),
)


def crossing(precision, *params):
    """The collectives of a training step of a small Switch-Base on 4 x 2 cores."""
    files = ("models/switch_base.gin", "layouts/expert_model_data.gin")
    settings = planner.parse_settings([*files, f"precision/{precision}.gin"], [*SIZES, *params])
    pod = pod_graph.build(
        settings, types.SimpleNamespace(vocab_size=model_files.T5_VOCABULARY_SIZE)
    )
    found = pod_census.count_collectives(pod)
    # The program is complete: two exchanges each way for each of two sparse layers.
    assert sum(c.count for c in found if c.kind == ALL_TO_ALL) == 8
    assert {c.phase for c in found} == {FORWARD, BACKWARD, UPDATE}
    return found


def belongs_to_router(collective):
    """Whether selective precision keeps a tensor in float32.

    The float32 tensors of Section 2.4 stay on their core, except sums over cores: gradients of
    the router's weights, the experts' loads and the losses, and the optimizer's scalars.
    """
    gradient = collective.phase == BACKWARD and collective.shape == (MODEL, EXPERTS)
    loads_and_scalars = collective.shape in ((EXPERTS,), ())
    return collective.kind == ALL_REDUCE and (gradient or loads_and_scalars)


def test_in_float32_nothing_crosses_cores_in_bfloat16():
    assert {c.dtype for c in crossing("float32")} == {"float32"}


def test_in_selective_precision_only_what_is_the_routers_crosses_cores_in_float32():
    found = crossing("selective")
    in_float32 = [c for c in found if c.dtype == "float32"]
    assert not [c for c in in_float32 if not belongs_to_router(c)]
    assert {c.dtype for c in found} == {"float32", "bfloat16"}
    # The gradients of both routers' weights are there, and not rounded.
    (gradients,) = (c for c in found if c.shape == (MODEL, EXPERTS))
    assert (gradients.dtype, gradients.count) == ("float32", 2)


def test_in_bfloat16_everywhere_nothing_of_the_model_crosses_cores_in_float32():
    found = crossing("bfloat16")
    # Loads and losses, which are summed over all tokens, and the optimizer's scalars.
    assert {c.shape for c in found if c.dtype == "float32"} == {(EXPERTS,), ()}
    (gradients,) = (c for c in found if c.shape == (MODEL, EXPERTS))
    assert (gradients.dtype, gradients.count) == ("bfloat16", 2)


def test_beyond_8_cores_gradients_are_summed_in_float32_and_tokens_still_sent_in_bfloat16():
    """Mesh TF sums bfloat16 over groups of more than 8 cores in float32."""
    found = crossing("selective", "mesh.data = 16", "mesh.model = 1", "num_experts = 16")
    assert {c.dtype for c in found if c.kind == ALL_TO_ALL} == {"bfloat16"}
    assert {c.dtype for c in found if c.kind == ALL_REDUCE} == {"float32"}


def test_a_tpu_run_is_in_selective_precision_and_a_later_file_has_the_last_word():
    for files, dtype in (
        (["runs/tpu.gin"], "bfloat16"),
        (["runs/tpu.gin", "precision/float32.gin"], "float32"),
        (["precision/float32.gin"], "float32"),
        ([], "float32"),
    ):
        gin_config.parse(["models/t5_tiny.gin", *files], ["MIXTURE_NAME = 'a_task'"])
        dtypes = utils.get_variable_dtype()
        assert dtypes.activation_dtype.name == dtype
        assert dtypes.master_dtype.name == dtypes.slice_dtype.name == "float32"
