"""Refuses bindings that have no effect, and says what to use instead."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import gin

from mtf_switch.config import gin_statements
from mtf_switch.config.gin_statements import Binding
from mtf_switch.errors import UserError, name_program, suggest_names

# Parameters of T5's main loop, `utils.run`, that this project ignores -> what to use instead.
_INSTEAD = {
    **dict.fromkeys(
        ("tpu_job_name", "tpu", "gcp_project", "tpu_zone"),
        "Use the flags --tpu, --gcp_project and --tpu_zone.",
    ),
    "model_dir": "Use the flag --model_dir.",
    "mode": "The command decides: train, eval, predict or score.",
    "dataset_split": "Use the flag --split of eval.",
    "eval_checkpoint_step": "Use the flag --checkpoint_steps of eval, or --checkpoint of "
    "predict and score.",
    **dict.fromkeys(
        (
            *("eval_summary_dir", "eval_dir_suffix"),
            *("output_eval_examples", "perplexity_eval_steps"),
        ),
        "The command eval has flags for what it evaluates and writes: see its --help.",
    ),
    **dict.fromkeys(
        ("export_checkpoint_step", "export_path"),
        "Use the command export, with its flags --checkpoint and --export_dir.",
    ),
    **dict.fromkeys(
        ("vocabulary", "train_dataset_fn", "eval_dataset_fn", "predict_fn"),
        "The task decides: use the flag --task.",
    ),
    "mesh_devices": "Use the flag --devices.",
    "seen_data_init_step": "A run continues from the step of its checkpoint.",
    **dict.fromkeys(
        ("ensemble_inputs", "train_model_fn", "checkpoint_input_pipeline"),
        "This project has no equivalent.",
    ),
}  # fmt: skip
# The parameters of `utils.tpu_estimator_model_fn` that this project reads.
GRAPH_PARAMETERS = ("outer_batch_size", "model_info_file", "hierarchical_tiling_spec")
# Its other parameters that are not those of `utils.run` -> what to use instead.
_INSTEAD_IN_GRAPH = {
    "init_variable_filter": "Use should_load_variable.filter_fn.",
    "tpu_summaries": "Training writes TensorBoard summaries in any case.",
    **dict.fromkeys(
        ("use_tpu", "score_in_predict_mode"), "The command and its flag --tpu decide."
    ),
    **dict.fromkeys(
        ("transformer_model", "weight_decay_checkpoint"), "This project has no equivalent."
    ),
}
# Functions of T5's main loop that this project does not call -> what to use instead.
_NOT_CALLED = {
    **dict.fromkeys(
        (
            *("utils.decode", "utils.decode_from_dataset", "utils.decode_from_file"),
            *("utils.infer_model", "utils.clean_decodes"),
            *("mesh_transformer.mesh_inference_dataset_fn",),
        ),
        "Use the flags of the command predict, or Bitransformer.decode.",
    ),
    **dict.fromkeys(
        (
            *("utils.compute_log_likelihoods", "utils.save_scores"),
            *("utils.save_scores_to_tfrecords", "utils.score_from_dataset"),
            *("utils.score_from_strings", "utils.score_with_estimator"),
            *("utils.score_with_estimator_lazy", "mesh_transformer.tsv_dataset_fn"),
        ),
        "Use the flags of the command score.",
    ),
    "utils.get_checkpoint_iterator": "Use the flag --checkpoint_steps of eval.",
    "mtf_model.MtfModel": "Use the command train.",
}
# Configurables that have an effect only through a reference -> the reference to add.
_NEED_REFERENCE = {
    "tpu_mesh_shape": "--gin_file=layouts/model_data.gin and mesh.model = N instead, "
    "for N-way model parallelism",
    "mesh": "--gin_file=layouts/expert_data.gin, or another file of gin/layouts/",
    "TopKRouter": "SwitchFFN.router = @TopKRouter()",
    "NoTokenLeftBehindRouter": "SwitchFFN.router = @NoTokenLeftBehindRouter()",
    **{
        name: f"utils.run.learning_rate_schedule = @learning_rate_schedules.{name}"
        for name in (
            *("constant", "linear_warmup", "linear_decay", "truncated_rsqrt"),
            *("learning_rate_schedule_noam", "slanted_triangular"),
            *("constant_learning_rate", "linear_decay_learning_rate"),
        )
    },
}
# The scopes that Mesh TensorFlow opens.
_SCOPES = frozenset(("encoder", "decoder", "student", "teacher"))


def check(bindings: Sequence[Binding], gin_params: Iterable[str]) -> None:
    """Checks that all scopes exist, and that every binding of the command line is used.

    Gin files are not checked for unused bindings, because T5's own files and saved
    configurations bind parameters that this project ignores.

    Args:
      bindings: The parsed configuration.
      gin_params: The bindings of the command line, such as "utils.run.mode = 'eval'".

    Raises:
      UserError: For the first binding that has no effect.
    """
    references = [reference for binding in bindings for reference in binding.references()]
    scopes = {scope for reference in references for scope in reference.scopes}
    for binding in bindings:
        _check_scope(binding, _SCOPES | scopes)
    used = {reference.base_name for reference in references}
    for param in gin_params:
        for binding in gin_statements.read_bindings(param):
            _check_used(param, binding, used)


def _check_scope(binding: Binding, known: frozenset[str]) -> None:
    for scope in filter(None, binding.scope.split("/")):
        if scope not in known:
            raise UserError(
                f"{binding.key} has no effect, because there is no scope {scope!r}."
                f"{suggest_names(scope, known)} The scopes are {', '.join(sorted(known))}."
            )


def _check_used(param: str, binding: Binding, used: set[str]) -> None:
    start = f"--gin_param={param!r} has no effect:"
    if binding.base_name == "run" and binding.parameter in _INSTEAD:
        raise UserError(
            f"{start} {name_program()} does not read {binding.parameter}. "
            f"{_INSTEAD[binding.parameter]}"
        )
    if binding.base_name == "tpu_estimator_model_fn":
        _check_used_in_graph(start, binding.parameter)
    instead = _NOT_CALLED.get(_full_name(binding.name))
    if instead:
        raise UserError(f"{start} {name_program()} does not call {binding.name}. {instead}")
    needed = _NEED_REFERENCE.get(binding.base_name)
    if binding.parameter and needed and binding.base_name not in used:
        raise UserError(f"{start} nothing uses {binding.base_name}. Add {needed}.")


def _check_used_in_graph(start: str, parameter: str) -> None:
    if parameter not in GRAPH_PARAMETERS:
        others = {**_INSTEAD, **_INSTEAD_IN_GRAPH}
        raise UserError(
            f"{start} {name_program()} does not read {parameter} of tpu_estimator_model_fn. "
            f"{others.get(parameter, f'Use utils.run.{parameter}.')}"
        )


def _full_name(name: str) -> str:
    """The last two parts of the full name of a configurable: utils.run of `run`."""
    found = gin.config._REGISTRY.get_match(name)
    return ".".join(found.selector.split(".")[-2:]) if found else name
