"""Settings in the gin file beside a source."""

from __future__ import annotations

import dataclasses

import pytest
import random_checkpoints

from mtf_switch.config import gin_config
from mtf_switch.conversion import gin_values, source_gin, t5x_checkpoint
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
    path = gin_values.find_gin_file([str(tmp_path / "none"), str(tmp_path)])
    assert source_gin.apply_gin_file(path, plain) == asked


def test_a_gin_file_that_contradicts_the_checkpoint_is_reported(tmp_path):
    path = tmp_path / "operative_config.gin"
    path.write_text("DenseReluDense.activation = 'relu'")
    assert gin_values.find_gin_file([str(tmp_path)]) == str(path)
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
    with pytest.raises(UserError, match=r"'gelu' in the (experts|dense) .* no format states"):
        source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SwitchFFN.router = @SwitchRouter()\nTopKRouter.k = 3", 1),
        ("SwitchFFN.router = @TopKRouter()", 2),
        ("SwitchFFN.router = %r\nr = @TopKRouter()\nTopKRouter.k = 3", 3),
        ("SwitchFFN.router = @a/TopKRouter()\na/TopKRouter.k = 3\nTopKRouter.k = 4", 3),
        (
            "encoder/SwitchFFN.router = @TopKRouter()\ndecoder/SwitchFFN.router = @TopKRouter()",
            2,
        ),
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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("SwitchFFN.router = @NoTokenLeftBehindRouter()", 4),
        (
            "SwitchFFN.router = @NoTokenLeftBehindRouter()\nNoTokenLeftBehindRouter.stages = 2",
            2,
        ),
        ("NoTokenLeftBehindRouter.stages = 2", 1),
    ],
)
def test_the_experts_that_a_token_tries_are_read(text, expected, tmp_path):
    path = tmp_path / "config.gin"
    path.write_text(text)
    found = source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)
    assert (found.routing_stages, found.experts_per_token) == (expected, 1)


def test_a_macro_may_be_bound_to_another_one_and_even_to_itself(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text("DROPOUT_RATE = %RATE\nRATE = %OTHER\nOTHER = 0.3\n")
    assert source_gin.apply_gin_file(str(path), random_checkpoints.T5).dropout_rate == 0.3
    path.write_text("A = %B\nB = %A\nDROPOUT_RATE = 0.4\n")
    assert source_gin.apply_gin_file(str(path), random_checkpoints.T5).dropout_rate == 0.4


@pytest.mark.parametrize(
    ("activation", "blocks"), [("['gelu', 'linear']", "ds"), ("'gelu'", "ds"), ("'gelu'", "s")]
)
def test_experts_have_the_activation_of_dense_layers_in_what_train_saves(
    activation, blocks, tmp_path
):
    gin_config.parse(
        ["models/switch_base_tiny.gin", "runs/embedded.gin"],
        [f"DenseReluDense.activation = {activation}"],
    )
    text = gin_config.to_text()
    assert "SwitchFFN.activation = @activation_of_dense_layers()" in text
    path = tmp_path / "config.gin"
    path.write_text(text)
    expected = ("gelu", "linear") if "linear" in activation else ("gelu",)
    inferred = ("swish", "linear") if "linear" in activation else ("relu",)
    model = random_checkpoints.make_architecture(blocks, blocks, activations=inferred)
    assert source_gin.apply_gin_file(str(path), model).activations == expected


def test_the_dense_layers_whose_activation_experts_have_are_those_of_their_stack(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text(
        "SwitchFFN.activation = @activation_of_dense_layers()\n"
        "encoder/DenseReluDense.activation = 'gelu'\n"
        "decoder/DenseReluDense.activation = 'gelu'\n"
    )
    found = source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)
    assert found.activations == ("gelu",)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("SwitchFFN.activation = @mine()", r"activations is @mine\(\), but it must be"),
        ("DenseReluDense.activation = @activation_of_dense_layers()", "activations is "),
        ("ExpertCapacity.group_size = @mine()", r"group_size is @mine\(\), but it must be"),
    ],
)
def test_a_reference_whose_value_only_a_program_knows_is_refused(text, message, tmp_path):
    path = tmp_path / "config.gin"
    path.write_text(text)
    kind = "s" if "Switch" in text else "d"
    model = random_checkpoints.make_architecture(kind, kind, experts=2 * (kind == "s"))
    with pytest.raises(UserError, match=message):
        source_gin.apply_gin_file(str(path), model)


@pytest.mark.parametrize(
    ("name", "of_encoder", "of_decoder"),
    [
        ("ExpertCapacity.capacity_factor_eval", 1.0, 4.0),
        ("ExpertCapacity.group_size", None, 64),
        ("Exploration.jitter", 0.0, 0.1),
        ("MoE1D.moe_gating", "top_2", "switch"),
        ("DenseReluDense.dropout_rate", 0.0, 0.3),
    ],
)
def test_stacks_with_different_settings_are_refused(name, of_encoder, of_decoder, tmp_path):
    path = tmp_path / "config.gin"
    encoder = f"encoder/{name} = {of_encoder!r}\n"
    path.write_text(f"{encoder}decoder/{name} = {of_decoder!r}\n")
    with pytest.raises(UserError, match=r" in the encoder, .* in the decoder, but no format"):
        source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)
    # The binding of a stack overrides the one without a scope.
    path.write_text(f"{encoder}decoder/{name} = {of_encoder!r}\n{name} = {of_decoder!r}\n")
    source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)


def test_stacks_with_different_activations_or_routers_are_refused(tmp_path):
    path = tmp_path / "config.gin"
    layers = ("DenseReluDense", "SwitchFFN")
    for text in (
        "".join(f"encoder/{layer}.activation = 'gelu'\n" for layer in layers),
        "encoder/SwitchFFN.router = @TopKRouter()\ndecoder/SwitchFFN.router = @SwitchRouter()",
        "mine/SwitchFFN.router = @TopKRouter()",
    ):
        path.write_text(text)
        with pytest.raises(UserError, match="no format states two"):
            source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)
    # Only the stack that has experts counts.
    only = random_checkpoints.make_architecture("ds", "dd")
    path.write_text("encoder/SwitchFFN.router = @TopKRouter()")
    assert source_gin.apply_gin_file(str(path), only).experts_per_token == 2


def test_the_dropout_rate_is_that_of_the_macro_or_of_dense_layers(tmp_path):
    path = tmp_path / "config.gin"
    other = "SelfAttention.dropout_rate = 0.3\nLayerStack.dropout_rate = None\n"
    for text, expected in (
        (f"{other}dropout_rate = 0.0", 0.0),
        (f"{other}DenseReluDense.dropout_rate = 0.2", 0.2),
        (other, 0.1),
    ):
        path.write_text(text)
        found = source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)
        assert found.dropout_rate == expected


def test_a_parameter_counts_more_than_a_macro_that_it_does_not_use(tmp_path):
    path = tmp_path / "config.gin"
    path.write_text("GROUP_SIZE = 2048\nmoe_layers.MoeLayer.max_group_size = 64\n")
    found = source_gin.apply_gin_file(str(path), random_checkpoints.SWITCH)
    assert found.capacity.max_group_size == 64
