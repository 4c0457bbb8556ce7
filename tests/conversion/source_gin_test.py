"""Settings in the gin file beside a source."""

from __future__ import annotations

import dataclasses

import pytest
import random_checkpoints

from mtf_switch.conversion import source_gin, t5x_checkpoint
from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import ExpertCapacity

# As Flaxformer's switch_classic files are written: macros, blocks, references that only T5X
# knows.
OF_T5X = """
from __gin__ import dynamic_registration
from flaxformer.components import dense
import seqio
include 'flaxformer/t5x/configs/moe/models/tokens_choose_base.gin'
ARCHITECTURE = %gin.REQUIRED
DROPOUT_RATE = 0.05
EXPERT_DROPOUT_RATE = %DROPOUT_RATE
TRAIN_EXPERT_CAPACITY_FACTOR = 1.
EVAL_EXPERT_CAPACITY_FACTOR = 2.5
GROUP_SIZE = 2048
JITTER_NOISE = 0.0
moe_layers.MoeLayer:
  max_group_size = %GROUP_SIZE
  train_capacity_factor = %TRAIN_EXPERT_CAPACITY_FACTOR
moe_layers.MoeLayer.min_expert_capacity = 2
dense.MlpBlock.activations = ('silu', 'linear')
expert/dense.MlpBlock.activations = ('silu', 'linear')
moe_architecture.SparseDecoder.output_logits_factory = @output_logits/dense.DenseGeneral
"""


def test_what_t5xs_gin_file_tells(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text(OF_T5X)
    found = source_gin.apply_gin_file(str(path), random_checkpoints.GATED)
    assert found == dataclasses.replace(
        random_checkpoints.GATED,
        capacity=ExpertCapacity(1.0, 2.5, 2, None, 2048),
        dropout_rate=0.05,
        input_jitter=0.0,
        activations=("silu", "linear"),
    )


@pytest.mark.parametrize(
    "model", [random_checkpoints.TWELVE, random_checkpoints.GATED, random_checkpoints.T5]
)
def test_what_is_written_beside_a_checkpoint_of_t5x_is_read_again(model, tmp_path):
    asked = dataclasses.replace(
        model,
        dropout_rate=0.25,
        **(
            {"capacity": ExpertCapacity(3.0, 4.0, 7, None, 512), "input_jitter": 0.5}
            if model.num_experts
            else {}
        ),
    )
    t5x_checkpoint.write_config(str(tmp_path), asked)
    plain = dataclasses.replace(asked, dropout_rate=0.1, capacity=ExpertCapacity())
    path = source_gin.find_gin_file([str(tmp_path / "none"), str(tmp_path)])
    assert source_gin.apply_gin_file(path, plain) == asked


def test_a_gin_file_that_contradicts_the_checkpoint_is_reported(tmp_path):
    path = tmp_path / "operative_config.gin"
    path.write_text("DenseReluDense.activation = 'relu'")
    assert source_gin.find_gin_file([str(tmp_path)]) == str(path)
    with pytest.raises(
        UserError, match=r"have the activations relu, but .* two input matrices"
    ):
        source_gin.apply_gin_file(str(path), random_checkpoints.GATED)


@pytest.mark.parametrize(
    ("text", "blocks", "expected"),
    [
        ("DenseReluDense.activation = 'relu'\nSwitchFFN.activation = 'gelu'", "s", ("gelu",)),
        ("DenseReluDense.activation = 'relu'\nSwitchFFN.activation = 'gelu'", "d", ("relu",)),
        ("DenseReluDense.activation = 'gelu'\nSwitchFFN.activation = 'gelu'", "ds", ("gelu",)),
        ("DenseReluDense.activation = 'gelu'", "s", ("relu",)),
        ("MlpBlock.activations = ('gelu',)", "ds", ("gelu",)),
    ],
)
def test_activations_are_those_of_the_layers_that_the_model_has(
    text, blocks, expected, tmp_path
):
    path = tmp_path / "config.gin"
    path.write_text(text)
    model = random_checkpoints.make_architecture(blocks, blocks, experts=2 * ("s" in blocks))
    assert source_gin.apply_gin_file(str(path), model).activations == expected


@pytest.mark.parametrize(
    "text",
    [
        "DenseReluDense.activation = 'relu'\nSwitchFFN.activation = 'gelu'",
        # Mesh TensorFlow's default, and that of SwitchFFN, is ReLU.
        "DenseReluDense.activation = 'gelu'",
        "a.SwitchFFN.activation = %act\nact = 'gelu'",
    ],
)
def test_experts_with_another_activation_than_dense_layers_are_refused(text, tmp_path):
    path = tmp_path / "config.gin"
    path.write_text(text)
    with pytest.raises(UserError, match=r"dense feed-forward layers have .* no format states"):
        source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SwitchFFN.router = @SwitchRouter()\nTopKRouter.k = 3", 1),
        ("SwitchFFN.router = @TopKRouter()", 2),
        ("encoder/SwitchFFN.router = %r\nr = @TopKRouter()\nTopKRouter.k = 3", 3),
        ("transformer_moe.MoE1D.moe_gating = 'top_2'", 2),
        ("MoE1D.moe_gating = 'top_n'\nMoE1D.top_n_num_experts_per_token = 4", 4),
        ("MoE1D.moe_gating = 'switch'", 1),
        ("NUM_SELECTED_EXPERTS = 2", 2),
    ],
)
def test_the_experts_that_a_token_visits_are_read(text, expected, tmp_path):
    path = tmp_path / "config.gin"
    path.write_text(text)
    found = source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)
    assert found.experts_per_token == expected
    assert source_gin.apply_gin_file(str(path), random_checkpoints.T5).experts_per_token == 1


def test_a_macro_may_be_bound_to_another_one_and_even_to_itself(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text("DROPOUT_RATE = %RATE\nRATE = %OTHER\nOTHER = 0.3\n")
    assert source_gin.apply_gin_file(str(path), random_checkpoints.T5).dropout_rate == 0.3
    path.write_text("A = %B\nB = %A\nDROPOUT_RATE = 0.4\n")
    assert source_gin.apply_gin_file(str(path), random_checkpoints.T5).dropout_rate == 0.4
