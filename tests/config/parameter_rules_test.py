"""Types and ranges of the values that gin binds."""

from __future__ import annotations

import re

import gin
import pytest

from mtf_switch import value_rules
from mtf_switch.config import bound_settings, gin_config
from mtf_switch.errors import UserError

FILES = ["models/switch_base.gin", "runs/embedded.gin"]


def read_settings(params: list[str]) -> None:
    """Reads the settings of a run with these bindings."""
    gin_config.parse(FILES, params)
    bound_settings.read_settings()


# Binding -> start of the message. The values have the wrong type, are out of range, or empty.
REFUSED = {
    "num_experts = 8.5": "num_experts (for SwitchFFN.num_experts) is 8.5, but it must be a whole",
    "num_experts = 'eight'": "num_experts (for SwitchFFN.num_experts) is 'eight', but it",
    "num_experts = %num_experts": "The macro num_experts is bound to itself",
    "d_ff = %num_heads\nnum_heads = %d_ff": "The macro d_ff is bound to itself",
    "SwitchFFN.num_experts = True": "SwitchFFN.num_experts is True, but it must be a whole",
    "SwitchFFN.num_experts = @SwitchFFN": "SwitchFFN.num_experts is @SwitchFFN, but it must",
    "SwitchFFN.router = None": "SwitchFFN.router is None, but it must be a router",
    "SwitchFFN.expert_dropout_rate = 2.0": "SwitchFFN.expert_dropout_rate is 2.0, but",
    "ExpertCapacity.capacity_factor_train = '1.25'": "ExpertCapacity.capacity_factor_train is '1",
    "ExpertCapacity.group_size = 0": "ExpertCapacity.group_size is 0, but it must be a whole",
    "SwitchRouter.z_loss_coef = -1": "SwitchRouter.z_loss_coef is -1, but it must be a finite",
    "utils.run.batch_size = 0": "run.batch_size is 0, but it must be a whole number of at least",
    "utils.run.batch_size = None": "run.batch_size is None, but",
    "utils.run.batch_size = ('tokens', 8)": "run.batch_size is ('tokens', 8), but",
    "utils.run.sequence_length = {'inputs': 0, 'targets': 8}": "run.sequence_length is {'inputs'",
    "utils.run.sequence_length = {'inputs': 8}": "run.sequence_length is {'inputs': 8}, but",
    "utils.run.learning_rate_schedule = []": "run.learning_rate_schedule is [], but it must be",
    "utils.run.batch_size = ('tokens_per_batch', 0)": "run.batch_size is ('tokens_per_batch', 0)",
    "utils.run.sequence_length = 0": "run.sequence_length is 0, but it must be lengths",
    "utils.run.sequence_length = None": "run.sequence_length is None, but it must be lengths",
    "utils.run.save_checkpoints_steps = -1": "run.save_checkpoints_steps is -1, but",
    "utils.run.mesh_shape = 5": "run.mesh_shape is 5, but it must be a text of pairs",
    "utils.run.layout_rules = [('data', 2)]": "run.layout_rules is [('data', 2)], but it must",
    "utils.run.model_type = 'bi_student_teacher'": "run.model_type is 'bi_student_teacher', but",
    "tpu_estimator_model_fn.outer_batch_size = -1": "tpu_estimator_model_fn.outer_batch_size is -1",
    "tpu_estimator_model_fn.model_info_file = 5": "tpu_estimator_model_fn.model_info_file is 5, but",
    "tpu_estimator_model_fn.hierarchical_tiling_spec = [['a', None], ['b', None]]": (
        "tpu_estimator_model_fn.hierarchical_tiling_spec is [['a', None], ['b', None]], but"
    ),
    "task_cache.folders = 5": "task_cache.folders is 5, but it must be a path, or a list of",
    "text_files.files = [5]": "text_files.files is [5], but it must be a path, or a list of paths",
    "mc4_rate.alpha = 'x'": "mc4_rate.alpha is 'x', but it must be a finite number at least 0",
    "Hardware.chip_flops = 0": "Hardware.chip_flops is 0, but it must be a finite number above 0",
    "devices.value = 1000000000": "devices.value is 1000000000, but it must be a whole number of",
    "Hardware.slices = 8": "Hardware.slices is 8, but it must be a list of whole numbers",
    "utils.run.mesh_shape = [('data', 'x')]": "run.mesh_shape is [('data', 'x')], but it must",
    "utils.run.mesh_shape = @SwitchRouter()": "run.mesh_shape is @SwitchRouter(), but it must",
    "utils.run.batch_size = @TopKRouter()": "run.batch_size is @TopKRouter(), but it must be",
    "utils.run.sequence_length = @mesh()": "run.sequence_length is @mesh(), but it must be",
    "utils.run.train_steps = 1e999": "run.train_steps is 1e999, but it must be a whole number",
    "d_model = 1e999": "d_model (for Unitransformer.d_model) is 1e999, but it must be a whole",
    "d_model = @TopKRouter()": "d_model (for Unitransformer.d_model) is @TopKRouter(), but",
    "num_layers = 1000000000": "num_layers (for pairs_of_blocks.num_layers) is 1000000000, but",
    "SelfAttention.num_heads = @ExpertCapacity()": "SelfAttention.num_heads is @ExpertCapacity()",
    "SwitchFFN.capacity = @mesh()": "SwitchFFN.capacity is @mesh(), but it must be a capacity",
    "SwitchFFN.capacity = 1e999": "SwitchFFN.capacity is 1e999, but it must be a capacity",
    "SwitchFFN.router = @ExpertCapacity()": "SwitchFFN.router is @ExpertCapacity(), but it must",
    "Exploration.jitter = @SwitchFFN()": "Exploration.jitter is @SwitchFFN(), but it must be a",
    "utils.run.layout_rules = 'batch:foo'": "Layout rule batch:foo names a mesh axis 'foo'",
    "utils.run.optimizer = 'adam'": "run.optimizer is 'adam', but it must be the name of a",
    "utils.run.variable_filter = '('": "run.variable_filter is '(', but it must be a regular",
    "utils.run.learning_rate_schedule = 'a'": "run.learning_rate_schedule is 'a', but",
    "utils.run.train_steps = '5'": "run.train_steps is '5', but it must be a whole number",
    "num_heads = 0": "num_heads (for SelfAttention.num_heads) is 0, but it must be a whole",
    "dropout_rate = 2.0": "dropout_rate (for DenseReluDense.dropout_rate) is 2.0, but it must",
    "num_layers = None": "num_layers (for pairs_of_blocks.num_layers) is None, but",
    "run_config.seed.value = 'a'": "seed.value is 'a', but it must be a whole number",
    "utils.run.mesh_shape = @mesh()\nmesh.data = 0.5": "mesh.data is 0.5, but it must be a whole number of at least 1",
    "tfds_data.data_dir = __file__": "tfds_data.data_dir is ",
    "get_variable_dtype.activation_dtype = 'int8'": "get_variable_dtype.activation_dtype is 'int",
    "mesh_eval_dataset_fn.num_eval_examples = 'a'": "mesh_eval_dataset_fn.num_eval_exam",
    "MIXTURE_NAME = 5": "MIXTURE_NAME (for mesh_eval_dataset_fn.mixture_or_task_name) is 5",
}  # fmt: skip


@pytest.mark.parametrize("binding", REFUSED)
def test_a_wrong_type_and_a_value_out_of_range_are_refused_in_one_sentence(binding: str):
    params = binding.replace("__file__", repr(__file__)).split("\n")
    with pytest.raises(UserError, match=re.escape(REFUSED[binding])) as caught:
        read_settings(params)
    assert str(caught.value).startswith(REFUSED[binding])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "binding",
    [
        "utils.run.batch_size = ('tokens_per_batch', 4096)",
        "utils.run.batch_size = ['sequences_per_replica', 2]",
        "utils.run.keep_checkpoint_max = None",
        "utils.run.mesh_shape = [('batch', 2)]",
        "utils.run.variable_filter = 'encoder/.*'",
        "utils.run.layout_rules = 'batch:data,experts:batch'",
        "run_config.seed.value = -3",
        "num_heads = %num_experts",
        "ExpertCapacity.group_size = None",
        "SwitchFFN.router = @TopKRouter()",
        "SwitchFFN.capacity = @encoder/ExpertCapacity()",
        "utils.run.mesh_shape = @mesh()\nutils.run.layout_rules = 'batch:data'\nmesh.data = 2",
        "utils.run.train_steps = @run_config.seed()\nrun_config.seed.value = 3",
        "ExpertCapacity.capacity_factor_train = 1e999",
    ],
)
def test_values_that_runs_may_have_are_accepted(binding: str):
    read_settings(binding.split("\n"))


def test_a_call_that_returns_another_type_is_refused_when_it_has_returned():
    with pytest.raises(
        UserError, match=r"run.train_steps is -3, but it must be a whole number"
    ):
        read_settings(
            ["utils.run.train_steps = @run_config.seed()", "run_config.seed.value = -3"]
        )


def test_an_infinite_number_stays_in_the_configuration():
    """gin alone would leave it out, so a saved run would have another capacity."""
    read_settings(["ExpertCapacity.capacity_factor_train = 1e999"])
    assert "ExpertCapacity.capacity_factor_train = 1e999\n" in gin_config.to_text()


def test_every_declared_parameter_exists():
    """A rule for a parameter that does not exist would never be applied."""
    gin_config.parse([], ["MIXTURE_NAME = 'x'"])
    registered = dict(gin.config._REGISTRY.items())
    for configurable, rules in value_rules.DECLARED.items():
        found = [c.wrapped for n, c in registered.items() if n.split(".")[-1] == configurable]
        for parameter in rules:
            assert any(gin.config._might_have_parameter(f, parameter) for f in found), (
                f"nothing has {configurable}.{parameter}"
            )
