"""From gin files and bindings to the settings of a run, with errors a user can act on."""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import importlib
import inspect
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tokenize import TokenError
from typing import Any, Callable

import gin

from mtf_switch.errors import UserError, nearest
from mtf_switch.mesh_layout import MeshLayout, on_devices

REPOSITORY = Path(__file__).resolve().parent.parent
GIN_FOLDER = REPOSITORY / "gin"
# Bindings that may differ between two calls on one model_dir: how long, how often, where.
MAY_CHANGE = (
    "run.train_steps",
    "run.save_checkpoints_steps",
    "run.keep_checkpoint_max",
    "run.iterations_per_loop",
    "run.mesh_shape",
    "run.layout_rules",
    "mesh.data",
    "mesh.model",
    "devices.value",
    "tfds_data.data_dir",
    "Bitransformer.decode",
    "mesh_eval_dataset_fn",
)


# What gin raises for a mistake in its input.
_GIN_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    SyntaxError,
    OSError,
    AttributeError,
    TokenError,
)


@gin.configurable
def seed(value: int = 0) -> int:
    """The seed of a run: of the data's order, the initial weights, and all noise."""
    return value


@gin.configurable
def devices(value: int | None = None) -> int | None:
    """On how many devices of this machine a run is placed; None if nothing said so."""
    return value


@dataclasses.dataclass(frozen=True)
class RunSettings:
    """What `utils.run` is told in gin, resolved; the names are T5's.

    Attributes:
      model_type: "bitransformer" or another of Mesh TF's.
      task: name of a task or mixture in seqio's registry.
      batch_size: sequences per step.
      sequence_length: {"inputs": L, "targets": L'} in tokens.
      train_steps: the step at which training ends.
      mesh_shape: mtf.Shape.
      layout_rules: mtf.LayoutRules.
      learning_rate_schedule: from step to learning rate, or a float.
      optimizer: subclass of mtf.optimize.Optimizer.
      save_checkpoints_steps: steps between checkpoints.
      keep_checkpoint_max: checkpoints kept.
      iterations_per_loop: steps per loop on a TPU.
      autostack: whether variables of one shape are stacked (helps TPUs only).
      init_checkpoint: where variables start from, or None.
      variable_filter: regular expression of the variables to train, or None for all.
      skip_seen_data: whether a resumed run passes over the batches it has seen.
      seed: of data, weights and noise.
      devices: of this machine, as one mesh; None if nothing said how many.
    """

    model_type: str
    task: str
    batch_size: int
    sequence_length: dict[str, int]
    train_steps: int
    mesh_shape: Any
    layout_rules: Any
    learning_rate_schedule: Callable | float
    optimizer: type
    save_checkpoints_steps: int
    keep_checkpoint_max: int | None
    iterations_per_loop: int
    autostack: bool
    init_checkpoint: str | None
    variable_filter: str | None
    skip_seen_data: bool
    seed: int
    devices: int | None = None

    @property
    def layout(self) -> MeshLayout:
        """Mesh shape and layout rules as the project's own data."""
        return MeshLayout.parse(self.mesh_shape, self.layout_rules)

    @property
    def tokens_per_batch(self) -> int:
        """Positions of inputs and targets in a step, padding included."""
        return self.batch_size * sum(self.sequence_length.values())


def _search_paths() -> list[Path]:
    """Where a gin file's relative path may start."""
    t5_models = Path(importlib.util.find_spec("t5").origin).parent / "models"
    mesh_tensorflow = Path(importlib.util.find_spec("mesh_tensorflow").origin).parent
    return [
        Path.cwd(),
        REPOSITORY,
        GIN_FOLDER,
        t5_models / "gin",
        mesh_tensorflow / "transformer" / "gin",
        mesh_tensorflow.parent,
    ]


def _register_configurables() -> None:
    """Imports every module whose gin names a user may bind."""
    for module in (
        "mesh_tensorflow.transformer.utils",
        "mesh_tensorflow.transformer.learning_rate_schedules",
        "mesh_tensorflow.optimize",
        "t5.models.mesh_transformer",
        "t5.data",
        "mtf_switch.data",
        "mtf_switch.embedding",
        "mtf_switch.initialization",
        "mtf_switch.mesh_layout",
        "mtf_switch.switch_ffn",
        "tasks.mc4",
        "tasks.pretraining",
        "tasks.repeats",
        "tasks.text_to_text",
        "tasks.tfds_data",
    ):
        importlib.import_module(module)


def parse(gin_files: Sequence[str], gin_params: Sequence[str], base: str = "") -> None:
    """Parses defaults.gin, then the files, then the bindings; later ones win.

    Args:
      gin_files: paths, from the working directory, the repository, its `gin/` folder, or
        T5's own gin folder.
      gin_params: bindings such as "SwitchFFN.num_experts = 16".
      base: gin text that comes between defaults.gin and the files; what gin does not know of
        it is passed over.

    Raises:
      UserError: for a file that is not there, a name that gin does not know, or bad syntax.
    """
    for file in gin_files:
        _check_exists(file)
    _register_configurables()
    gin.clear_config()
    for path in _search_paths():
        gin.add_config_file_search_path(str(path))
    with _explained("The gin files cannot be read: "):
        gin.parse_config_file("defaults.gin")
        gin.parse_config(base, skip_unknown=True)
        for file in gin_files:
            gin.parse_config_file(file)
    for param in gin_params:
        with _explained(f"--gin_param={param!r}: "):
            gin.parse_config(param)
    _check_macros(gin_params)


def _check_macros(gin_params: Sequence[str]) -> None:
    """Refuses macros that are used and not bound, or bound by the user and not used.

    To gin `num_expert = 16` is a macro of that name, which nothing has to use.
    """
    config = gin.config_str(max_line_length=1000)
    used = set(re.findall(r"%(\w+)", config))
    bound = set(re.findall(r"^(\w+) = ", config, re.MULTILINE))
    for name in sorted(used - bound - {"MIXTURE_NAME"}):
        raise UserError(f"%{name} is used, but nothing binds {name}.{nearest(name, bound)}")
    for param in gin_params:
        name = param.split("=")[0].strip()
        if re.fullmatch(r"\w+", name) and name not in used:
            raise UserError(
                f"--gin_param={param!r} has no effect: nothing uses %{name}."
                f"{nearest(name, used)} A parameter is bound as function.parameter = value."
            )


def _check_exists(file: str) -> None:
    if any((path / file).is_file() for path in _search_paths()):
        return
    known = [str(p.relative_to(REPOSITORY)) for p in sorted(GIN_FOLDER.rglob("*.gin"))]
    raise UserError(
        f"There is no gin file {file!r}, seen from the working directory, the repository, its "
        f"gin/ folder or T5's.{nearest(file, known)} All of the project's are below gin/."
    )


@contextlib.contextmanager
def _explained(where: str) -> Iterator[None]:
    """Turns gin's errors into UserErrors that start with `where`."""
    try:
        yield
    except _GIN_ERRORS as error:
        raise UserError(where + _explain(error)) from error


def _explain(error: Exception) -> str:
    """Gin's message, with the nearest names where a name is unknown."""
    text = error.args[0] if isinstance(error, TokenError) else str(error)
    # A KeyError's text is in quotes.
    message = " ".join(text.split("In bindings string")[0].split()).strip('"')
    unknown = re.search(r"No configurable matching (?:reference )?'@?([^'()]*)", message)
    if unknown:
        name = unknown.group(1).split("/")[-1]
        known = {n.split(".")[-1] for n, _ in gin.config._REGISTRY.items()}
        return f"{message}{nearest(name.split('.')[-1], known)}"
    parameter = re.search(
        r"Configurable '([^']*)' doesn't have a parameter named '([^']*)'", message
    )
    if parameter:
        selector, name = parameter.groups()
        return f"{message}{nearest(name, _parameters(selector))}"
    if message.startswith("Ambiguous selector"):
        return f"{message} Write one of these names."
    return message


def _parameters(selector: str) -> Iterable[str]:
    wrapped = gin.config._REGISTRY.get_match(selector).wrapped
    return inspect.signature(wrapped).parameters


def bind(name: str, value: Any) -> None:
    """Binds one gin parameter, as the last word."""
    with gin.unlock_config():
        gin.bind_parameter(name, value)


def settings() -> RunSettings:
    """Reads the settings of a run from the parsed gin configuration.

    Raises:
      UserError: if a binding that every run needs is missing or cannot be used.
    """
    import mesh_tensorflow as mtf
    from mesh_tensorflow.transformer import learning_rate_schedules, utils

    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(utils.run).parameters.items()
    }
    try:
        values = {**defaults, **gin.get_bindings("mesh_tensorflow.transformer.utils.run")}
    except ValueError as error:
        raise UserError(_explain(error)) from error
    lengths = values["sequence_length"]
    if isinstance(lengths, int):
        lengths = {"inputs": lengths, "targets": lengths}
    layout = on_devices(
        MeshLayout.parse(values["mesh_shape"], values["layout_rules"]), devices()
    )
    mesh_shape = mtf.convert_to_shape(layout.mesh_shape)
    layout_rules = mtf.convert_to_layout_rules(layout.layout_rules)
    batch_size = values["batch_size"]
    if not isinstance(batch_size, int):
        try:
            batch_size = utils.compute_batch_size(lengths, mesh_shape, layout_rules, batch_size)
        except ValueError as error:
            raise UserError(
                f"utils.run.batch_size = {batch_size} does not fit sequences of "
                f"{max(lengths.values())} tokens: {error}."
            ) from error
    steps = values["train_steps"]
    if not isinstance(steps, int):
        steps = steps(batch_size, lengths)
    if steps < 1:
        raise UserError(f"The number of training steps is {steps}, but it is at least 1.")
    schedule = values["learning_rate_schedule"]
    total_steps = values["total_run_steps"] or steps
    if isinstance(schedule, list):
        schedule = functools.partial(
            learning_rate_schedules.product_learning_rate, factors=schedule
        )
    if callable(schedule):
        schedule = functools.partial(schedule, total_train_steps=total_steps)
    return RunSettings(
        model_type=values["model_type"],
        task=_task(),
        batch_size=batch_size,
        sequence_length=lengths,
        train_steps=steps,
        mesh_shape=mesh_shape,
        layout_rules=layout_rules,
        learning_rate_schedule=schedule,
        optimizer=values["optimizer"],
        save_checkpoints_steps=values["save_checkpoints_steps"],
        keep_checkpoint_max=values["keep_checkpoint_max"],
        iterations_per_loop=values["iterations_per_loop"],
        autostack=values["autostack"],
        init_checkpoint=values["init_checkpoint"],
        variable_filter=values["variable_filter"],
        skip_seen_data=values["skip_seen_data"],
        seed=seed(),
        devices=devices(),
    )


def _task() -> str:
    try:
        return gin.query_parameter("%MIXTURE_NAME")
    except ValueError as error:
        raise UserError(
            "No task is named: pass --task=NAME, or bind MIXTURE_NAME in a gin file."
        ) from error


def text() -> str:
    """The whole parsed configuration as gin text that parses back to itself."""
    lines = gin.config_str(max_line_length=1000).splitlines()
    return "".join(f"{line}\n" for line in lines if not line.startswith("#"))


def save_or_compare(model_dir: str) -> None:
    """Keeps the configuration of a model_dir, and refuses one that differs from it.

    What a run left that ended before its first checkpoint is replaced.

    Args:
      model_dir: made if it is not there.

    Raises:
      UserError: with the differing lines, if the folder was made with another
        configuration; or if it cannot be written.
    """
    import tensorflow.compat.v1 as tf

    path = os.path.join(model_dir, "config.gin")
    new = text()
    has_checkpoints = tf.io.gfile.exists(os.path.join(model_dir, "checkpoint"))
    if not (tf.io.gfile.exists(path) and has_checkpoints):
        try:
            tf.io.gfile.makedirs(model_dir)
            with tf.io.gfile.GFile(path, "w") as file:
                file.write(new)
        except (OSError, tf.errors.OpError) as error:
            raise UserError(
                f"The model_dir {model_dir} cannot be written ({_first_line(error)}). Choose a "
                "folder that you may write to."
            ) from error
        return
    with tf.io.gfile.GFile(path) as file:
        old = file.read()
    difference = [
        line
        for line in difflib.unified_diff(_comparable(old), _comparable(new), lineterm="", n=0)
        if line[:1] in "+-" and line[:3] not in ("+++", "---")
    ]
    if difference:
        raise UserError(
            f"{model_dir} was made with another configuration (- is what it has, + is what "
            "you asked for):\n  " + "\n  ".join(difference) + "\nTrain in another "
            "--model_dir, or ask for what it has."
        )


def _comparable(config: str) -> list[str]:
    """The binding lines that must not change between two calls on one model_dir."""
    lines = [line for line in config.splitlines() if line and not line.startswith("import ")]
    return sorted(
        line for line in lines if not any(name in line.split("=")[0] for name in MAY_CHANGE)
    )


def load(model_dir: str, gin_files: Sequence[str] = (), gin_params: Sequence[str] = ()) -> None:
    """Parses the configuration that a model_dir was trained with, then what is put on top.

    Raises:
      UserError: if the folder holds none.
    """
    path = os.path.join(model_dir, "config.gin")
    if not os.path.isfile(path):
        raise UserError(
            f"{model_dir} holds no config.gin, so it is not the model_dir of a training run. "
            "Give the folder that `run_switch.py train --model_dir` wrote."
        )
    parse([os.path.abspath(path), *gin_files], gin_params)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
