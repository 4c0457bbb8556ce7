"""The objective of a student's run: the losses of `loss`, with the logits of its teacher."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.config.run_settings import RunSettings
from mtf_switch.distillation import (
    cache_key,
    initial_values,
    loss,
    teacher_cache,
    weights_of_teacher,
)
from mtf_switch.distillation.settings import DistillationSettings
from mtf_switch.distillation.teacher import Teacher
from mtf_switch.distillation.teacher_cache import FEATURE, TeacherCache
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.runs import target_loss
from mtf_switch.runs.model_call import Features
from mtf_switch.runs.objective import ORDINARY
from mtf_switch.runs.run import Run


@dataclasses.dataclass(frozen=True)
class Distillation:
    """The objective of a student's run; see `runs.objective.Objective`.

    Attributes:
      teacher: The teacher.
      teacher_model: Its model, built for the student's run.
      settings: How the student learns from it.
      cache: The teacher's probabilities, if they are read instead of computed.
    """

    teacher: Teacher
    teacher_model: Any
    settings: DistillationSettings
    cache: TeacherCache | None = None

    @classmethod
    def make(cls, run: Run, teacher: Teacher, settings: DistillationSettings) -> Distillation:
        """Builds the teacher's model for a student's run.

        Raises:
          UserError: If the layout cannot split the teacher's model, or the run cannot read a
            cache.
        """
        target = run.target
        if settings.cache is not None and target.on_tpu:
            raise UserError(
                "--cache_teacher is not for a TPU, which would wait for the cached "
                "probabilities. Remove it."
            )
        drops_tokens = settings.teacher_capacity == "evaluation"
        model = teacher.build(run.settings, run.vocabulary, target, drops_tokens)
        cache = None
        if settings.cache is not None:
            cache = _open_or_write_cache(settings, run.settings, teacher, model)
            print(cache.describe(), file=sys.stderr)
        return cls(teacher, model, settings, cache)

    def make_input_fn(self, settings: RunSettings, first_step: int) -> Callable | None:
        """Makes the input function of training: see `Objective`."""
        return self.cache and self.cache.make_input_fn(settings, first_step)

    def import_own(
        self,
        mesh: mtf.Mesh,
        settings: RunSettings,
        features: dict[str, tf.Tensor],
        batch_dims: Sequence[mtf.Dimension],
    ) -> dict[str, mtf.Tensor]:
        """Imports the teacher's probabilities, if they are cached: see `Objective`."""
        log_probs = features.pop(FEATURE, None)
        if log_probs is None:
            return {}
        imported = teacher_cache.import_feature(mesh, log_probs, settings, batch_dims)
        return {FEATURE: imported}

    @contextlib.contextmanager
    def use(
        self, model: Any, settings: RunSettings, *, features: Features, records: bool
    ) -> Iterator[None]:
        """Makes a student compute its loss: see `Objective`."""
        if target_loss.find_given(model) is not None:
            raise UserError(
                "Unitransformer.loss_fn is bound, but a student has the loss of distillation: "
                "remove it."
            )
        loss_fn = functools.partial(self._compute_loss, settings, features, records)
        with target_loss.replace(model, loss_fn):
            yield

    def _compute_loss(
        self,
        settings: RunSettings,
        features: Features,
        records: bool,
        stack: transformer.Unitransformer,
        context: transformer.Context,
        logits: mtf.Tensor,
        targets: mtf.Tensor,
        vocab_dim: mtf.Dimension,
    ) -> mtf.Tensor:
        """Computes the loss of training: see `target_loss.compute` for the last arguments.

        The teacher is called here, after the student's forward pass: the student then has the
        operations, the initial values and the noise that it has without a teacher.
        """
        teacher_logits = features.get(FEATURE)
        if teacher_logits is None:
            teacher_logits = self.teacher.compute_logits(self.teacher_model, settings, features)
        losses = loss.compute(
            logits,
            target_loss.smooth_labels(stack, context, targets, vocab_dim),
            teacher_logits,
            vocab_dim,
            soft=import_value(self.settings.soft, logits.mesh),
            temperature=import_value(self.settings.temperature, logits.mesh),
            z_loss=stack.z_loss,
        )
        if records:
            target_loss.record(settings.model_type, losses.labels, targets, losses.teacher)
        return target_loss.average(stack, context, losses.total, targets)

    def load_initial_weights(self, settings: RunSettings, model_dir: str) -> None:
        """Makes a new student start from its teacher, and prints what came from where.

        Raises:
          UserError: If the student cannot take the teacher's weights.
        """
        if saved_checkpoints.list_paths(model_dir):
            return
        init = self.settings.init
        if init == "none":
            ORDINARY.load_initial_weights(settings, model_dir)
            return
        origins = weights_of_teacher.load_into_graph(self.teacher.checkpoint, init)
        print(initial_values.format_table(origins, init, self.teacher.checkpoint))


def _open_or_write_cache(
    chosen: DistillationSettings, settings: RunSettings, teacher: Teacher, model: Any
) -> TeacherCache:
    """Opens the cache in a folder, or computes and writes it.

    Raises:
      UserError: If the folder has something else, or the cache of another teacher, other data
        or another run; see `cache_key`.
    """
    folder, key = chosen.cache, cache_key.make(chosen, settings, teacher)
    is_own = not os.path.exists(folder) and teacher_cache.write(
        folder, key, settings, teacher, model
    )
    if not is_own:
        info = teacher_cache.read_info(folder)
        cache_key.check(folder, info, key)
        read_first = functools.partial(teacher_cache.read_first_batch, folder)
        cache_key.check_first_batch(folder, read_first, info["seed"], settings)
    return TeacherCache.open(folder)


def import_value(value: float | Callable, mesh: mtf.Mesh) -> float | mtf.Tensor:
    """Returns a number, or the value of a schedule in this step as a float32 scalar."""
    if not callable(value):
        return float(value)
    with mtf.utils.outside_all_rewrites():
        now = tf.cast(value(step=tf.train.get_global_step()), tf.float32)
    return mtf.import_fully_replicated(mesh, now, mtf.Shape([]), name="schedule")
