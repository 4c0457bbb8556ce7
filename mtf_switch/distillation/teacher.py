"""A trained model as the teacher of another: it is neither trained nor saved."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import mesh_tensorflow as mtf
import tensorflow.compat.v1 as tf

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.config.gin_config import SavedText
from mtf_switch.config.parsed_configuration import ParsedConfiguration
from mtf_switch.config.run_settings import RunSettings
from mtf_switch.errors import UserError
from mtf_switch.layers import recorded_sums
from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.model import switch_transformer
from mtf_switch.model_dirs import saved_checkpoints
from mtf_switch.runs import model_call
from mtf_switch.runs.model_call import Features
from mtf_switch.runs.objective import TEACHER_SCOPE
from mtf_switch.runs.runtime import Target


@dataclasses.dataclass(frozen=True)
class Teacher:
    """A checkpoint with the configuration of its model.

    Attributes:
      checkpoint: The path of the checkpoint; "" for a model that is only planned.
      configuration: The parsed configuration in its folder.
      model_type: The type of its model, such as "bitransformer".
      sequence_length: The lengths with which it was trained, by feature.
    """

    checkpoint: str
    configuration: ParsedConfiguration
    model_type: str
    sequence_length: dict[str, int] | int | None

    @classmethod
    def parse(cls, checkpoint: str, config: SavedText) -> Teacher:
        """Parses the configuration of a teacher, which is that of gin afterwards.

        Args:
          checkpoint: The path of the checkpoint.
          config: The text of the configuration beside it; empty if there is none.

        Raises:
          UserError: If there is no configuration, or it cannot be parsed.
        """
        if not config.text:
            raise UserError(
                f"Beside the teacher {checkpoint} there is no config.gin (or T5's "
                "operative_config.gin) that describes its model: copy it there."
            )
        gin_config.parse([], [], config)
        return cls.capture(checkpoint)

    @classmethod
    def capture(cls, checkpoint: str = "") -> Teacher:
        """Returns a teacher with the configuration that gin has now.

        Args:
          checkpoint: The path of the checkpoint; "" if the teacher is only planned.
        """
        values = bound_settings.read_run_parameters()
        configuration = ParsedConfiguration.capture()
        return cls(checkpoint, configuration, values["model_type"], values["sequence_length"])

    def check_lengths(self, settings: RunSettings) -> None:
        """Checks that a student has the type and the lengths of its teacher.

        Args:
          settings: The settings of the student's run.

        Raises:
          UserError: If it has not.
        """
        if settings.model_type != self.model_type:
            raise UserError(
                f"The student is a {settings.model_type!r} and its teacher {self.checkpoint} a "
                f"{self.model_type!r}: choose a --student of the same type."
            )
        own = self.sequence_length
        own = dict.fromkeys(settings.sequence_length, own) if isinstance(own, int) else own
        if own is not None and own != settings.sequence_length:
            raise UserError(
                f"The student has sequences of {settings.sequence_length} tokens and its "
                f"teacher {self.checkpoint} of {own}. Pass the teacher's: --gin_param="
                f'"utils.run.sequence_length = {own}".'
            )

    def build(
        self, settings: RunSettings, vocabulary: Any, target: Target, drops_tokens: bool
    ) -> Any:
        """Builds the model, on the mesh and for the batches of a student.

        Args:
          settings: The settings of the student's run.
          vocabulary: Its vocabulary, or its (inputs, targets) vocabularies.
          target: What runs its graph.
          drops_tokens: Whether experts have the capacity of evaluation, or room for all tokens.

        Raises:
          UserError: If the layout cannot split it.
        """
        try:
            with self.configuration.use():
                model = switch_transformer.build(
                    settings, vocabulary, target.on_tpu, compiled=target.compiled
                )
        except UserError as error:
            raise UserError(f"The teacher {self.checkpoint}: {error}") from error
        if not drops_tokens:
            for stack in switch_transformer.stacks(model):
                for layer in switch_transformer.switch_layers(stack):
                    layer.inference = InferenceCapacity()
        return model

    def compute_logits(
        self, model: Any, settings: RunSettings, features: Features
    ) -> mtf.Tensor:
        """Calls the model on a batch, as in evaluation: without dropout and noise.

        Its variables are neither trained nor saved. Whenever a session starts, they get their
        values from the checkpoint.

        Args:
          model: The model that `build` made.
          settings: The settings of the student's run.
          features: The features of the batch, see `model_call.import_features`.

        Returns:
          Logits [O, B, L, V] in the teacher's type of activations, without a gradient.

        Raises:
          UserError: If the checkpoint lacks a variable, or has another shape.
        """
        graph = features["targets"].graph
        own = set(graph.trainable_variables)
        getter = _make_restoring_getter(self.checkpoint) if self.checkpoint else _get_local
        scope = tf.variable_scope(TEACHER_SCOPE, custom_getter=getter)
        with self.configuration.use(), scope, recorded_sums.set_aside(graph):
            logits, _ = model_call.call_model(
                model, settings, features, "eval", compute_loss=False
            )
        graph.make_variables_untrainable(
            [variable for variable in graph.trainable_variables if variable not in own]
        )
        return mtf.stop_gradient(logits)


def _make_restoring_getter(checkpoint: str) -> Callable[..., tf.Variable]:
    """Returns a getter of variables that start at the values of a checkpoint.

    They are local variables, which TensorFlow initializes in every session and never saves.
    """
    with saved_checkpoints.explain_read_errors(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
    shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()

    def get_restored(getter, name, *args, **kwargs):
        source = name.split(f"{TEACHER_SCOPE}/", 1)[1]
        wanted = list(kwargs["shape"])
        if shapes.get(source) != wanted:
            raise UserError(
                f"The teacher {checkpoint} does not fit the configuration beside it and the "
                f"vocabulary of the student: {source} is {shapes.get(source, 'missing')} in "
                f"the checkpoint and {wanted} in the model."
            )

        def restore(shape, dtype=None, **others):
            del others
            value = saved_checkpoints.restore_variable(checkpoint, source, dtypes[source])
            return tf.cast(tf.reshape(value, shape), dtype)

        return _get_local(getter, name, *args, **{**kwargs, "initializer": restore})

    return get_restored


def _get_local(getter: Callable, name: str, *args: Any, **kwargs: Any) -> tf.Variable:
    local = dict(trainable=False, collections=[tf.GraphKeys.LOCAL_VARIABLES])
    return getter(name, *args, **{**kwargs, **local})
