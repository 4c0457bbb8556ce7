"""A trained model with signatures from texts to texts and scores."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import tensorflow as tf

from mtf_switch.errors import UserError
from mtf_switch.layers.capacity import InferenceCapacity
from mtf_switch.model import switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.model_dirs import initial_weights, saved_checkpoints
from mtf_switch.runs import decode_length, inference_steps
from mtf_switch.runs.run import Run
from mtf_switch.serving import batches, served_text
from mtf_switch.serving.served_text import ServedText


class ServedModel:
    """A model on one device, for any number of texts.

    Attributes:
      predict: The signature from `inputs` [N] to `outputs` [N] and `scores` [N] float32, the
        log-likelihood of each output in nats.
      score: The signature from `inputs` [N] and `targets` [N] to `scores` [N].
      module: Holds everything that a SavedModel of these signatures needs.
    """

    def __init__(
        self,
        run: Run,
        checkpoint: str,
        batch_sizes: Sequence[int],
        samples: bool,
        prefix: str = "",
    ):
        """Builds the graphs, and reads the weights.

        Args:
          run: The run, made from the parsed gin configuration. Its mesh has one device, and
            gin's bindings of `Bitransformer.decode` decide how it decodes.
          checkpoint: The path of the checkpoint.
          batch_sizes: The sizes for which graphs are built.
          samples: Whether decoding samples. Each call then draws anew.
          prefix: Text that the run's task puts before each input. Inputs that begin with it
            stay as they are.

        Raises:
          UserError: If the model or the checkpoint cannot be read.
        """
        decode_length.make_independent_of_batch(run.settings)
        self._run, self._samples, self._prefix = run, samples, prefix
        self._lengths = run.settings.sequence_length
        self._model = switch_transformer.build(
            run.settings, run.vocabulary, inference=InferenceCapacity()
        )
        # With the one-hot products that a model may be configured for, tokens can be dropped.
        for stack in switch_transformer.stacks(self._model):
            for layer in switch_transformer.switch_layers(stack):
                layer.dispatch_method = "auto"
        self._inputs = ServedText(run.feature_vocabulary("inputs"))
        self._targets = ServedText(run.feature_vocabulary("targets"))
        self._weights = _read_weights(checkpoint)
        self._decode = {size: self._wrap_decoding(size) for size in batch_sizes}
        decoded = self._decode[batch_sizes[0]].structured_outputs.shape[1]
        lengths = {self._lengths["targets"], decoded}
        self._score = {
            length: {size: self._wrap_scoring(size, length) for size in batch_sizes}
            for length in lengths
        }
        self.predict = tf.function(self._predict).get_concrete_function(
            tf.TensorSpec([None], tf.string, "inputs")
        )
        self.score = tf.function(self._score_texts).get_concrete_function(
            tf.TensorSpec([None], tf.string, "inputs"),
            tf.TensorSpec([None], tf.string, "targets"),
        )
        self.module = tf.Module()
        self.module.weights = list(self._weights.values())
        self.module.vocabularies = [self._inputs, self._targets]
        self.module.signatures_of_texts = [self.predict, self.score]

    def _predict(self, inputs: tf.Tensor) -> Mapping[str, tf.Tensor]:
        ids = served_text.cut(self._encode_inputs(inputs), self._lengths["inputs"])
        outputs = batches.apply(self._decode, ids)
        scores = batches.apply(self._score[outputs.shape[1]], ids, outputs)
        return {"outputs": self._targets.decode(outputs), "scores": scores}

    def _score_texts(self, inputs: tf.Tensor, targets: tf.Tensor) -> Mapping[str, tf.Tensor]:
        given = {
            "inputs": self._encode_inputs(inputs),
            "targets": self._targets.encode(targets),
        }
        checks = [
            tf.debugging.assert_less_equal(
                ids.row_lengths(),
                tf.cast(self._lengths[name], tf.int64),
                f"A text of {name} has more than the {self._lengths[name]} tokens that the "
                "model has room for.",
            )
            for name, ids in given.items()
        ]
        with tf.control_dependencies(checks):
            ids = {name: served_text.cut(x, self._lengths[name]) for name, x in given.items()}
        functions = self._score[self._lengths["targets"]]
        return {"scores": batches.apply(functions, ids["inputs"], ids["targets"])}

    def _encode_inputs(self, texts: tf.Tensor) -> tf.RaggedTensor:
        return self._inputs.encode(served_text.add_prefix(texts, self._prefix))

    def _wrap_decoding(self, size: int) -> tf.types.experimental.ConcreteFunction:
        settings = dataclasses.replace(self._run.settings, batch_size=size)

        def decode(inputs):
            step = inference_steps.build_decoding(
                self._model, settings, {"inputs": inputs}, self._make_mesh_impl()
            )
            return tf.reshape(step.outputs["outputs"], [size, -1])

        return self._wrap(decode, [tf.TensorSpec([size, self._lengths["inputs"]], tf.int32)])

    def _wrap_scoring(self, size: int, length: int) -> tf.types.experimental.ConcreteFunction:
        lengths = {**self._lengths, "targets": length}
        settings = dataclasses.replace(
            self._run.settings, batch_size=size, sequence_length=lengths
        )

        def score(inputs, targets):
            features = {"inputs": inputs, "targets": targets}
            step = inference_steps.build_scoring(
                self._model, settings, features, self._make_mesh_impl()
            )
            return tf.reshape(step.outputs["scores"], [size])

        return self._wrap(
            score,
            [
                tf.TensorSpec([size, self._lengths["inputs"]], tf.int32),
                tf.TensorSpec([size, length], tf.int32),
            ],
        )

    def _wrap(
        self, function: Callable[..., tf.Tensor], signature: Sequence[tf.TensorSpec]
    ) -> tf.types.experimental.ConcreteFunction:
        """Builds the graph of a function, in which variables are those of the checkpoint."""

        def find_variable(next_creator, name, shape=None, **others):
            del next_creator, shape, others
            if name not in self._weights:
                raise UserError(
                    f"The checkpoint lacks the variable {name} of the model that config.gin "
                    "describes."
                )
            return self._weights[name]

        def call(*inputs):
            with tf.variable_creator_scope(find_variable):
                return function(*inputs)

        return tf.compat.v1.wrap_function(call, signature)

    def _make_mesh_impl(self) -> SeededPlacementMeshImpl:
        largest = 2**31 - 1
        step = tf.constant(0, tf.int32)
        if self._samples:
            step = tf.random.uniform([], 0, largest, tf.int32)
        return SeededPlacementMeshImpl([], [], [""], noise_step=step)


def _read_weights(checkpoint: str) -> dict[str, tf.Variable]:
    """Returns the weights in a checkpoint, by name."""
    with saved_checkpoints.explain_read_errors(checkpoint):
        reader = tf.train.load_checkpoint(checkpoint)
        return {
            name: tf.Variable(
                tf.cast(reader.get_tensor(name), tf.float32), trainable=False, name=name
            )
            for name in reader.get_variable_to_shape_map()
            if initial_weights.weights_only(name)
        }
