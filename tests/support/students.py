"""A tiny dense student of the tiny Switch Transformer of `tiny_run`."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow.compat.v1 as tf
from tiny_run import BATCH, PARAMS, Outcome, TinyRun

from mtf_switch.config import gin_config
from mtf_switch.distillation import settings as distillation_settings
from mtf_switch.distillation.distillation import Distillation
from mtf_switch.distillation.teacher import Teacher
from mtf_switch.model import switch_transformer
from mtf_switch.runs import estimator, training_step
from mtf_switch.runs.objective import ORDINARY
from mtf_switch.runs.pretrained_checkpoint import PretrainedCheckpoint
from mtf_switch.runs.run import Run
from mtf_switch.runs.training_step import TrainingStep

MODEL = """
include 'models/bi_v1.gin'

d_model = 16
d_ff = 32
num_heads = 2
d_kv = 8
num_layers = 1
dropout_rate = 0.1
"""
# Fewer layers, for tests that do not start from the teacher's weights.
_LAYERS = "transformer.make_layer_stack.layers"
FEW_LAYERS = {
    f"encoder/{_LAYERS}": "[@transformer_layers.DenseReluDense]",
    f"decoder/{_LAYERS}": (
        "[@transformer_layers.EncDecAttention, @transformer_layers.DenseReluDense]"
    ),
}
_OF_EXPERTS = ("num_experts", "SwitchFFN", "Exploration", "ExpertCapacity", "dropout_rate")
STUDENT_PARAMS = {
    name: value for name, value in PARAMS.items() if not name.startswith(_OF_EXPERTS)
}


def write_model(tiny: TinyRun) -> Path:
    """Writes the gin file of the student."""
    path = tiny.folder / "student.gin"
    path.write_text(MODEL, encoding="utf-8")
    return path


def distil(
    tiny: TinyRun,
    teacher: Path | str,
    model_dir: Path,
    *arguments: str,
    params: Mapping[str, str] = {},
) -> Outcome:
    """Runs `distil`; `params` override STUDENT_PARAMS."""
    return tiny.command(*list_arguments(tiny, teacher, model_dir, *arguments, params=params))


def list_arguments(
    tiny: TinyRun,
    teacher: Path | str,
    model_dir: Path,
    *arguments: str,
    params: Mapping[str, str] = {},
) -> list[str]:
    """The arguments of `distil`."""
    values = {**STUDENT_PARAMS, **params}
    return [
        "distil",
        f"--teacher={teacher}",
        f"--student={write_model(tiny)}",
        f"--corpus={tiny.corpus}",
        f"--model_dir={model_dir}",
        *(f"--gin_param={name} = {value}" for name, value in values.items()),
        *arguments,
    ]


def draw_batch(settings: Any) -> dict[str, np.ndarray]:
    """Ids with an end and padding: "inputs" and "targets", [B, L] int32."""
    chooser = np.random.default_rng(0)
    batch = {}
    for name, length in settings.sequence_length.items():
        ids = chooser.integers(3, 300, size=[BATCH, length], dtype=np.int32)
        ends = chooser.integers(length // 2, length, size=[BATCH, 1])
        places = np.arange(length)[np.newaxis]
        ids[places == ends] = 1
        batch[name] = np.where(places <= ends, ids, 0)
    return batch


def parse(tiny: TinyRun, params: Mapping[str, str]) -> tuple[Any, Any]:
    """Parses the student's configuration; returns (settings, vocabulary)."""
    values = {"text_files.files": repr(str(tiny.corpus)), **STUDENT_PARAMS, **params}
    gin_config.parse(
        [str(write_model(tiny))],
        [f"{name} = {value}" for name, value in values.items()]
        + ["MIXTURE_NAME = 'text_files'", "utils.run.train_steps = 6"],
    )
    return tiny.prepared()


@dataclasses.dataclass(frozen=True)
class BuiltStep:
    """A training step of a student, in a session with initialized variables.

    Attributes:
      session: The session.
      step: The step.
      objective: Its objective.
      settings: The settings of the run.
      vocabulary: Its vocabulary.
      batch: The features of its batch.
    """

    session: tf.Session
    step: TrainingStep
    objective: Any
    settings: Any
    vocabulary: Any
    batch: dict[str, np.ndarray]

    def run(self, *fetches: Any) -> list[Any]:
        """Runs fetches, of which Mesh TF tensors are exported."""
        return self.session.run(fetches)

    def read_variables(self) -> dict[str, np.ndarray]:
        """Returns the variables that a checkpoint would have."""
        self.session.run(self.step.lowering.copy_slices_to_masters())
        return self.session.run({v.op.name: v for v in tf.global_variables()})


def make_objective(
    tiny: TinyRun, teacher: Path | None, params: Mapping[str, str], runtime: Any = None
) -> tuple[Any, Any, Any]:
    """Returns (settings, vocabulary, objective) of a student with few layers."""
    found = None
    if teacher is not None:
        pretrained = PretrainedCheckpoint.from_path(str(teacher))
        found = Teacher.parse(pretrained.path, pretrained.whole_config)
    bound = {"distillation.teacher": repr(found.checkpoint)} if found else {}
    settings, vocabulary = parse(tiny, {**FEW_LAYERS, **bound, **params})
    if not found:
        return settings, vocabulary, ORDINARY
    run = Run(settings, vocabulary, "no-such-folder", runtime=runtime)
    chosen = distillation_settings.read(settings.train_steps)
    return settings, vocabulary, Distillation.make(run, found, chosen)


@contextlib.contextmanager
def build_step(
    tiny: TinyRun, teacher: Path | None, params: Mapping[str, str] = {}
) -> Iterator[BuiltStep]:
    """Builds the training step of a student with few layers and random weights.

    Without a teacher, it is the ordinary step.
    """
    settings, vocabulary, objective = make_objective(tiny, teacher, params)
    devices = estimator.assign_devices(settings.layout.size)
    config = estimator.session_config(False, devices)
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    batch = draw_batch(settings)
    model = switch_transformer.build(settings, vocabulary)
    with tf.Graph().as_default(), tf.Session(config=config) as session:
        tf.set_random_seed(7)
        tf.train.get_or_create_global_step()
        features = {name: tf.constant(ids) for name, ids in batch.items()}
        mesh_impl, _ = estimator.make_mesh_impl(settings, devices)
        step = training_step.build(model, settings, features, mesh_impl, objective=objective)
        session.run(tf.global_variables_initializer())
        session.run(tf.local_variables_initializer())
        session.run(step.lowering.copy_masters_to_slices())
        yield BuiltStep(session, step, objective, settings, vocabulary, batch)
