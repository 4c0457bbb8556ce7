"""Bindings that nothing in a model or a training run reads are refused."""

from __future__ import annotations

import types
from pathlib import Path

import pytest
from mesh_tensorflow import optimize

from mtf_switch.config import (
    bound_settings,
    gin_config,
    gin_files,
    saved_config,
    unread_bindings,
)
from mtf_switch.errors import UserError
from mtf_switch.model import switch_transformer

DENSE, SWITCH, ATTENTION = (
    ["models/t5_tiny.gin"],
    ["models/switch_tiny.gin"],
    ["models/switch_tiny.gin", "sparsity/experts_attention.gin"],
)
RUN = "runs/embedded.gin"
GATED = "DenseReluDense.activation = ['gelu', 'linear']"
NO_EXPERTS = "The model has no Switch layer: use one that has, such as models/switch_tiny.gin"

# (files of the model, binding) -> the message after "has no effect: ".
REFUSED = [
    (DENSE, "SwitchFFN.num_experts = 4", f"SwitchFFN.num_experts. {NO_EXPERTS}"),
    (DENSE, "SwitchFFN.router = @TopKRouter()", f"reads SwitchFFN.router. {NO_EXPERTS}"),
    (DENSE, "ExpertCapacity.group_size = 64", f"ExpertCapacity.group_size. {NO_EXPERTS}"),
    (DENSE, "mtf_switch.capacity.ExpertCapacity.group_size = 64", NO_EXPERTS),
    (DENSE, "SwitchRouter.z_loss_coef = 0.1", NO_EXPERTS),
    (DENSE, "Exploration.jitter = 0.1", NO_EXPERTS),
    (DENSE, "num_experts = 4", "nothing uses %num_experts"),
    (
        ATTENTION,
        "SwitchFFN.hidden_size = 8",
        "reads SwitchFFN.hidden_size. It has no SwitchFFN",
    ),
    (
        SWITCH,
        "SwitchAttention.num_experts = 4",
        "add --gin_file=sparsity/experts_attention.gin",
    ),
    (SWITCH, "decoder/SwitchFFN.num_experts = 4", "The decoder has no Switch layer"),
    (SWITCH, "pairs_of_blocks.num_layers = 4", "It has no pairs_of_blocks: remove"),
    (SWITCH, "LocalSelfAttention.radius = 4", "It has no LocalSelfAttention: remove"),
    (SWITCH, "Unitransformer.input_vocab_size = 4", "The caller of Unitransformer sets its"),
    (
        SWITCH,
        "transformer.make_layer_stack.layers = [@SwitchFFN]",
        "decoder/transformer.make_layer_stack.layers and "
        "encoder/transformer.make_layer_stack.layers override it",
    ),
]


def build(files: list[str], params: list[str]) -> None:
    gin_config.parse([*files, RUN], params)
    build_parsed()


def build_parsed() -> None:
    settings = bound_settings.read_settings()
    switch_transformer.build(settings, types.SimpleNamespace(vocab_size=500))


@pytest.mark.parametrize(("files", "binding", "message"), REFUSED)
def test_a_binding_that_the_model_does_not_read_is_refused(
    files: list[str], binding: str, message: str
) -> None:
    with pytest.raises(UserError) as caught:
        build(files, [binding])
    text = str(caught.value)
    assert text.startswith(f"--gin_param={binding!r} has no effect: ")
    assert message in text
    assert "\n" not in text


def test_macros_of_which_every_use_is_in_vain_are_refused(tmp_path: Path) -> None:
    mine = tmp_path / "mine.gin"
    mine.write_text("d_model = 64\nSwitchFFN.num_experts = %mine\nmine = 3\n")
    with pytest.raises(
        UserError, match=r"only SwitchFFN.num_experts uses %mine, without effect\. no"
    ):
        build([*DENSE, str(mine)], ["mine = 4"])
    build([*SWITCH, str(mine)], ["mine = 4"])
    # The graph will read it, although the model has not.
    mine.write_text(
        "sublayer_dropout.dropout_rate = %mine\nSwitchFFN.expert_dropout_rate = %mine\n"
    )
    build([*DENSE, str(mine)], ["mine = 0.1"])


def test_bindings_that_are_read_are_accepted() -> None:
    build(DENSE, ["d_ff = 99", "dropout_rate = 0.2", "encoder/DenseReluDense.hidden_size = 8"])
    build(SWITCH, ["SwitchFFN.router = @TopKRouter()", "TopKRouter.k = 2", "num_experts = 4"])
    build(
        SWITCH,
        ["ExpertCapacity.capacity_factor_eval = 3.0", "encoder/Exploration.jitter = 0.1"],
    )


def test_bindings_that_the_graph_or_another_command_reads_are_accepted() -> None:
    later = [
        *("init_scale.s = 0.3", "sublayer_dropout.dropout_rate = 0.1"),
        *("Bitransformer.decode.beam_size = 4", "mesh_eval_dataset_fn.pack = False"),
        *("AdafactorOptimizer.beta1 = 0.1", "get_variable_dtype.activation_dtype = 'bfloat16'"),
        *("linear_warmup.steps_or_fraction = 0.1", "text_files.vocab_size = 500"),
    ]
    for files in (DENSE, SWITCH):
        build(files, later)


def test_a_file_that_the_model_does_not_read_is_refused() -> None:
    with pytest.raises(UserError, match=rf"routing/top_2.gin has no effect: .*{NO_EXPERTS}"):
        build([*DENSE, "routing/top_2.gin"], [])


def test_what_a_users_file_binds_in_vain_is_printed(tmp_path: Path, capsys) -> None:
    mine = tmp_path / "mine.gin"
    mine.write_text("dropout_rate = 0.2\nSwitchFFN.num_experts = 3\n")
    build([*DENSE, str(mine)], [])
    printed = capsys.readouterr().err
    assert printed.startswith(
        f"Without effect in {mine}: SwitchFFN.num_experts. For the first: "
    )
    build([*SWITCH, str(mine)], [])
    assert capsys.readouterr().err == ""


def test_every_file_of_the_project_has_an_effect_on_the_model_that_it_is_for(capsys) -> None:
    for path in sorted(gin_files.GIN_FOLDER.rglob("*.gin")):
        file = path.relative_to(gin_files.GIN_FOLDER)
        if file.parts[0] in ("precision", "routing", "runs", "sizes", "sparsity"):
            gin_config.parse([*SWITCH, str(file), RUN], [])
            build_parsed()
    for file in ("runs/finetune.gin", "paper/table_4/t5_dropout_0.1.gin"):
        build([*DENSE, file], [])
    assert capsys.readouterr().err == ""


def test_saved_configurations_hold_defaults_of_layers_that_a_model_lacks(
    tmp_path: Path,
) -> None:
    gin_config.parse([*DENSE, RUN], [])
    (tmp_path / "config.gin").write_text(gin_config.to_text())
    saved_config.load(str(tmp_path), gin_params=["d_ff = 256"])
    build_parsed()
    saved_config.load(str(tmp_path), gin_params=["SwitchFFN.num_experts = 2"])
    with pytest.raises(UserError, match=NO_EXPERTS):
        build_parsed()


def test_what_the_graph_of_training_should_have_read_is_refused() -> None:
    """This builds no graph, but calls directly the functions that the graph would call."""
    params = ["AdafactorOptimizer.decay_rate = 0.5", "Bitransformer.decode.beam_size = 4"]
    gin_config.parse([*SWITCH, RUN], [*params, "ExpertCapacity.group_size = 64"])
    build_parsed()
    with pytest.raises(
        UserError, match=r"decay_rate = 0.5' has no effect: nothing .* reads Ada"
    ):
        unread_bindings.check_training()
    optimize.AdafactorOptimizer()
    unread_bindings.check_training()


def test_functions_of_t5_that_this_project_does_not_call_are_refused() -> None:
    for binding, instead in {
        "utils.decode_from_file.batch_size = 3": "the command predict",
        "save_scores.scores_filename = 'x'": "the command score",
        "MtfModel.batch_size = 3": "the command train",
    }.items():
        with pytest.raises(UserError, match=f"does not call .* Use .*{instead}"):
            gin_config.parse([*SWITCH, RUN], [binding])
