"""Declares the types and ranges of gin parameters, and checks a parsed configuration.

The layers of this project declare their own parameters with `value_rules.declare`. This module
declares the parameters of Mesh TensorFlow, of T5, and of a run.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin

from mtf_switch import value_rules
from mtf_switch.config import gin_statements
from mtf_switch.config.gin_statements import Binding, Macro, Reference
from mtf_switch.errors import UserError
from mtf_switch.value_rules import Rule, any_whole, boolean, declare, number, one_of, rate, text

_UNITS = tuple(
    f"{units}_per_{per}" for units in ("tokens", "sequences") for per in ("batch", "replica")
)


def _is_batch_size(value: Any) -> bool:
    if isinstance(value, (tuple, list)) and len(value) == 2:
        return value[0] in _UNITS and _is_positive(value[1])
    return _is_positive(value)


def _is_sequence_length(value: Any) -> bool:
    if isinstance(value, Mapping):
        return {"inputs", "targets"} <= set(value) and all(map(_is_positive, value.values()))
    return _is_positive(value)


def _is_positive(value: Any) -> bool:
    return value_rules.whole(1).accepts(value)


def _is_schedule(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return bool(value) and all(isinstance(part, Reference) for part in value)
    return isinstance(value, Reference) or number(0).accepts(value)


def _is_filter(value: Any) -> bool:
    if not isinstance(value, str):
        return value is None or isinstance(value, Reference)
    try:
        re.compile(value)
    except re.error:
        return False
    return True


def _are_pairs_with(is_valid: Callable[[Any], bool]) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        if not isinstance(value, (list, tuple)):
            return value is None or isinstance(value, str)
        return all(
            isinstance(pair, (list, tuple))
            and len(pair) == 2
            and isinstance(pair[0], str)
            and is_valid(pair[1])
            for pair in value
        )

    return accepts


def _one_or_pair(rule: Rule) -> Callable[[Any], bool]:
    def accepts(value: Any) -> bool:
        if isinstance(value, (list, tuple)):
            return len(value) == 2 and all(map(rule.accepts, value))
        return rule.accepts(value)

    return accepts


def _are_paths(value: Any) -> bool:
    paths = value if isinstance(value, (list, tuple)) else [value]
    return all(map(text().accepts, paths))


def _is_folder(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and not os.path.isfile(value)


def _is_task_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.:]+", value) is not None


def _is_tiling(value: Any) -> bool:
    are_pairs = isinstance(value, (list, tuple)) and _are_pairs_with(_is_tile)(value)
    # Only the first axis may be as long as the others leave it.
    return are_pairs and all(tile is not None for _, tile in value[1:])


def _is_tile(value: Any) -> bool:
    return value is None or (isinstance(value, (list, tuple)) and all(map(_is_positive, value)))


def _nothing(advice: str) -> Rule:
    return Rule("None", lambda value: value is None, advice)


def _make_pairs_rule(example: str, is_valid: Callable[[Any], bool]) -> Rule:
    return Rule(f"a text of pairs, such as {example!r}", _are_pairs_with(is_valid))


_SIZE = value_rules.whole(1)
# Each layer takes time to build.
_LAYERS = value_rules.whole(1, 10_000)
_PATHS = Rule("a path, or a list of paths", _are_paths).or_none()
_DTYPE = one_of("float32", "bfloat16", "float16")
_TYPE = Rule(
    "the name of a class, such as @LeanAdafactor",
    lambda value: isinstance(value, Reference) and not value.is_call,
)

# Results of functions by the names of their types.
_SAMPLES = {"int": 1, "float": 0.5, "str": "data:1"}
# Parameters of a run whose values are names of functions or classes.
_NAME_FUNCTIONS = ("learning_rate_schedule", "optimizer", "variable_filter")

declare(
    "run",
    model_type=one_of(
        *("bitransformer", "lm", "delimited_lm", "aligned"),
        advice="For a student with a teacher (bi_student_teacher), use the command distil.",
    ),
    batch_size=Rule(
        "a whole number of at least 1, or a pair such as ('tokens_per_batch', 65536)",
        _is_batch_size,
        f"The units are {', '.join(_UNITS)}.",
    ),
    sequence_length=Rule(
        "lengths of at least 1, such as {'inputs': 512, 'targets': 114}", _is_sequence_length
    ),
    train_steps=_SIZE,
    total_run_steps=_SIZE.or_none(),
    mesh_shape=_make_pairs_rule("data:8,model:4", _is_positive),
    layout_rules=_make_pairs_rule("batch:data,d_ff:model", lambda axis: isinstance(axis, str)),
    learning_rate_schedule=Rule(
        "a finite number of at least 0, or the name of a schedule or a list of them, such as "
        "@learning_rate_schedules.constant",
        _is_schedule,
    ),
    optimizer=_TYPE,
    save_checkpoints_steps=_SIZE,
    keep_checkpoint_max=value_rules.whole(0).or_none(),
    iterations_per_loop=_SIZE,
    autostack=boolean(),
    init_checkpoint=text().or_none(),
    variable_filter=Rule("a regular expression, or None", _is_filter),
    skip_seen_data=boolean(),
)
declare(
    "tpu_estimator_model_fn",
    outer_batch_size=value_rules.whole(0).or_none(),
    model_info_file=Rule(
        "a path, or None", lambda value: value is None or isinstance(value, str)
    ),
    hierarchical_tiling_spec=Rule(
        "pairs of a mesh axis and its shape on the TPU, such as [['data', None], "
        "['model', [2, 1, 2]]]",
        _is_tiling,
    ).or_none(),
    tpu_summaries=boolean(),
    # These would change a run, so a gin file may not bind them either.
    ensemble_inputs=_nothing("This project has no equivalent."),
    init_checkpoint=_nothing("Use utils.run.init_checkpoint."),
    init_variable_filter=Rule(
        "''", lambda value: value == "", "Use should_load_variable.filter_fn."
    ),
    weight_decay_checkpoint=_nothing("This project has no equivalent."),
)
declare("seed", value=any_whole())
# A machine has few devices, and each part of its processor takes memory.
declare("devices", value=value_rules.whole(1, 1024).or_none())
declare("eval_every_steps", value=value_rules.whole(0), batches=_SIZE)
declare("keep_best", value=boolean())
declare("mesh", data=_SIZE, model=_SIZE)
declare(
    "run_vocabulary",
    sha256=Rule("a SHA-256, or those of inputs and targets", _one_or_pair(text())).or_none(),
    sentinels=Rule(
        "a whole number of at least 0, or those of inputs and targets",
        _one_or_pair(value_rules.whole(0)),
    ).or_none(),
)
declare("task_vocabulary", source=text().or_none(), sentinels=value_rules.whole(0))
declare("tfds_data", data_dir=Rule("a folder", _is_folder).or_none())
declare("embedded_text", vocab_size=_SIZE)
declare("text_files", files=_PATHS, vocab_size=_SIZE.or_none())
declare("span_corruption", noise_density=number(above=0, below=1), mean_span_length=number(1))
declare("task_cache", folders=_PATHS)
declare(
    "own_data",
    name=Rule("a name of letters, digits, '_', '.' and ':'", _is_task_name).or_none(),
    **dict.fromkeys(("train_file", "validation_file", "test_file"), text().or_none()),
    **dict.fromkeys(("inputs_column", "targets_column"), text()),
    prefix=Rule("a text", lambda value: isinstance(value, str)),
    metrics=Rule(
        "a list of names of metrics",
        lambda value: isinstance(value, (list, tuple)) and all(map(text().accepts, value)),
    ),
)
declare("mc4_rate", alpha=number(0))
declare("remove_repeats", min_tokens=_SIZE)
declare(
    "Hardware",
    name=text(),
    slices=Rule(
        "a list of whole numbers of at least 1",
        lambda value: isinstance(value, (list, tuple)) and all(map(_is_positive, value)),
    ),
    **dict.fromkeys(
        ("cores_per_chip", "cores_per_host", "chip_hbm_bytes", "torus_dimensions"), _SIZE
    ),
    core_reserved_bytes=value_rules.whole(0),
    **dict.fromkeys(
        (
            *("chip_flops", "chip_hbm_bandwidth", "chip_link_bandwidth"),
            "pod_bisection_bandwidth",
        ),
        number(above=0),
    ),
)

declare("Unitransformer", d_model=_SIZE, max_length=_SIZE, label_smoothing=number(0, below=1))
declare("make_layer_stack", num_layers=_LAYERS)
declare("pairs_of_blocks", num_layers=_LAYERS)
declare("LayerStack", dropout_rate=rate().or_none())
declare("DenseReluDense", hidden_size=_SIZE, dropout_rate=rate())
declare(
    "SelfAttention",
    num_heads=_SIZE,
    num_memory_heads=value_rules.whole(0),
    key_value_size=_SIZE,
    relative_attention_num_buckets=_SIZE,
    dropout_rate=rate(),
)
declare("sublayer_dropout", dropout_rate=rate())
declare("get_variable_dtype", master_dtype=_DTYPE, slice_dtype=_DTYPE, activation_dtype=_DTYPE)
declare(
    "serialize_num_microbatches",
    tokens_per_microbatch_per_replica=_SIZE.or_none(),
)
declare("AdafactorOptimizer", beta1=number(0, below=1), multiply_by_parameter_scale=boolean())
declare("constant", value=number(0))
declare("constant_learning_rate", learning_rate=number(0))
declare("linear_warmup", steps_or_fraction=number(0))
declare("linear_decay", steps_or_fraction=number(0))
declare(
    "learning_rate_schedule_noam",
    warmup_steps=_SIZE,
    linear_decay_fraction=number(0, high=1),
    multiplier=number(0),
)
_DATASET = {"mixture_or_task_name": text(), "pack": boolean()}
declare("mesh_train_dataset_fn", **_DATASET)
declare("mesh_eval_dataset_fn", **_DATASET, num_eval_examples=any_whole().or_none())
declare("decode", beam_size=_SIZE, temperature=number(0), alpha=number())


def check_configuration() -> None:
    """Checks the type and range of every declared parameter that gin binds.

    Raises:
      UserError: For the first value that breaks its rule.
    """
    bindings = gin_statements.read_bindings(gin.config_str(max_line_length=1000))
    macros = {binding.key: binding.value for binding in bindings if not binding.parameter}
    for binding in bindings:
        rule = value_rules.DECLARED.get(binding.base_name, {}).get(binding.parameter)
        if rule is not None:
            _check(rule, binding, macros)


def _check(rule: Rule, binding: Binding, macros: Mapping[str, Any]) -> None:
    name, value = binding.key, binding.value
    while isinstance(value, Macro):
        name = f"{value.name} (for {binding.key})"
        if value.name not in macros:
            return
        value = macros[value.name]
    if not (isinstance(value, Reference) and value.is_call):
        rule.check(name, value)
    elif not _may_return(value, rule):
        rule.check(name, value)  # no rule accepts a call itself


def _may_return(call: Reference, rule: Rule) -> bool:
    """Whether a call may return a value that a rule accepts, judged by its annotated type.

    The code that receives the value checks the rest.
    """
    for selector, configurable in gin.config._REGISTRY.items():
        if selector.split(".")[-1] != call.base_name:
            continue
        wrapped = configurable.wrapped
        returned = getattr(wrapped, "__annotations__", {}).get("return")
        if isinstance(wrapped, type) and not inspect.isabstract(wrapped):
            if rule.accepts(object.__new__(wrapped)):
                return True
        elif returned not in _SAMPLES or rule.accepts(_SAMPLES[returned]):
            return True
    return False


def check_results(owner: str, values: Mapping[str, Any]) -> None:
    """Checks the values that calls returned for parameters with rules for values.

    Args:
      owner: A configurable, such as "run".
      values: The values of its parameters, with references evaluated.

    Raises:
      UserError: For the first value that breaks its rule.
    """
    for name, rule in value_rules.DECLARED[owner].items():
        value = values.get(name)
        if value is not None and not callable(value) and name not in _NAME_FUNCTIONS:
            rule.check(f"{owner}.{name}", value)


def check_macros_end(bindings: Sequence[Binding]) -> None:
    """Checks that no macro is bound to itself, directly or through others.

    Raises:
      UserError: For the first macro that is.
    """
    uses = {binding.key: binding.macros() for binding in bindings if not binding.parameter}
    for name in uses:
        reached, waiting = set(), [name]
        while waiting:
            found = uses.get(waiting.pop(), set()) - reached
            reached |= found
            waiting += found
        if name in reached:
            raise UserError(
                f"The macro {name} is bound to itself, as in {name} = %{name}: bind it to a "
                "value."
            )
