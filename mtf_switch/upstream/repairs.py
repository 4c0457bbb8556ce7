"""Repairs of the installed Mesh TensorFlow 0.1.21 and T5 0.9.4: one function each.

Nothing is edited on disk. `repair_on_import` hooks Python's import system, so that each
repair runs when the module that it mends is imported, whoever imports it, and at once for
a module that is loaded already. A plain `import mesh_tensorflow` before `mtf_switch` fails
in Mesh TensorFlow itself on TensorFlow 2.13 and later; after `import mtf_switch` it works.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import sys
import types
import zlib
from collections.abc import Callable
from typing import Any


def restore_register_tensor_conversion_function() -> None:
    """Puts back the symbol without which Mesh TensorFlow does not import.

    TensorFlow 2.13 moved `ops.register_tensor_conversion_function` to a module of its own.
    """
    from tensorflow.python.framework import ops, tensor_conversion_registry

    if not hasattr(ops, "register_tensor_conversion_function"):
        ops.register_tensor_conversion_function = (
            tensor_conversion_registry.register_tensor_conversion_function
        )


def stand_in_for_torch_model() -> None:
    """Lets `t5.models` import without torch: its HfPyTorchModel becomes an explanation."""

    class HfPyTorchModel:
        """Stands where T5's torch model would be."""

        def __init__(self, *_: Any, **__: Any):
            raise ImportError(
                "t5.models.HfPyTorchModel needs torch, which mtf_switch does not install."
            )

    module = types.ModuleType("t5.models.hf_model", HfPyTorchModel.__doc__)
    module.HfPyTorchModel = HfPyTorchModel
    sys.modules.setdefault("t5.models.hf_model", module)


def make_random_reproducible(placement_mesh_impl: types.ModuleType) -> None:
    """Makes the noise of PlacementMeshImpl a function of (seed, operation, global step).

    Upstream seeds with Python's `random.random()` and salted `hash()`: two runs never
    agree. Here a killed and resumed run sees the noise of an uninterrupted one. Inside a
    loop, of microbatches or of decoding, it is also a function of the iteration: a
    generator with a state would serve iterations in whatever order they happen to run,
    another one on each core.
    """
    import tensorflow.compat.v1 as tf

    stateless = {
        tf.random.uniform: tf.random.stateless_uniform,
        tf.random.normal: tf.random.stateless_normal,
        tf.random.truncated_normal: tf.random.stateless_truncated_normal,
    }

    def random(self, shape, tf_fn, kwargs):
        graph = tf.get_default_graph()
        slice_shape = self.slice_shape(shape)
        step = tf.train.get_global_step()
        iteration = _loop_iteration(graph)
        # Read here: within slice_values the scope names the processor, too.
        operation = graph.get_name_scope()

        def slice_values(processor):
            # Slices that hold the same part of the tensor must hold the same numbers.
            place = f"{graph.seed},{operation},{self.slice_begin(shape, processor)}"
            seed = zlib.crc32(place.encode()) & 0x7FFFFFFF
            if tf_fn not in stateless:
                return tf_fn(slice_shape, seed=seed, **kwargs)
            when = 0 if step is None else tf.cast(step, tf.int32)
            seeds = tf.stack([seed, when])
            if iteration is not None:
                seeds = tf.random.experimental.stateless_fold_in(seeds, iteration)
            return stateless[tf_fn](slice_shape, seed=seeds, **kwargs)

        return self.slicewise(slice_values, self.laid_out_pnum())

    placement_mesh_impl.PlacementMeshImpl.random = random


def make_random_reproducible_on_a_tpu(simd_mesh_impl: types.ModuleType) -> None:
    """Does for SimdMeshImpl what `make_random_reproducible` does for PlacementMeshImpl.

    Upstream draws with a state, which no checkpoint holds; and one core of those that hold
    the same part of a tensor draws for all of them, so that noise costs an all-reduce. Here
    each core draws what its part of the tensor has: cores with the same part agree.
    """
    import tensorflow.compat.v1 as tf

    # The first versions of these operations: Cloud TPU's documentation lists them.
    stateless = {
        tf.random.uniform: tf.raw_ops.StatelessRandomUniform,
        tf.random.normal: tf.raw_ops.StatelessRandomNormal,
        tf.random.truncated_normal: tf.raw_ops.StatelessTruncatedNormal,
    }
    upstream_random = simd_mesh_impl.SimdMeshImpl.random

    def random(self, shape, tf_fn, kwargs):
        dtype = tf.as_dtype(kwargs.get("dtype", tf.float32))
        if tf_fn not in stateless or not dtype.is_floating:
            return upstream_random(self, shape, tf_fn, kwargs)
        graph = tf.get_default_graph()
        operation = zlib.crc32(f"{graph.seed},{graph.get_name_scope()}".encode()) & 0x7FFFFFFF
        part = self.laid_out_slice_num(shape).one_slice
        step = tf.train.get_global_step()
        when = tf.constant(0) if step is None else tf.cast(step, tf.int32)
        iteration = _loop_iteration(graph)
        if iteration is not None:
            when += _FAR * iteration
        noise = stateless[tf_fn](
            shape=self.slice_shape(shape),
            seed=tf.stack([operation + _FAR * part, when]),
            dtype=dtype,
        )
        if tf_fn is tf.random.uniform:
            low, high = kwargs.get("minval", 0), kwargs.get("maxval")
            noise = noise * ((1 if high is None else high) - low) + low
        else:
            noise = noise * kwargs.get("stddev", 1.0) + kwargs.get("mean", 0.0)
        return self.LaidOutTensor([noise])

    simd_mesh_impl.SimdMeshImpl.random = random


# Multiples of it do not meet each other soon in 32 bits: 2^32 over the golden ratio.
_FAR = -1640531527


def _loop_iteration(graph: Any) -> Any:
    """A scalar that differs between iterations of the loop being built; None outside one."""
    import tensorflow.compat.v1 as tf
    from tensorflow.python.ops.control_flow_v2_func_graphs import WhileBodyFuncGraph

    if isinstance(graph, WhileBodyFuncGraph):
        return graph.inputs[0]  # its own counter
    context = graph._get_control_flow_context()
    loop = context and context.GetWhileContext()
    # In TensorFlow 1's loops, the first variable: Mesh TF's loops count with it.
    return tf.reduce_max(tf.cast(loop._pivot_for_body, tf.int32)) if loop else None


def silence_step_print(utils: types.ModuleType) -> None:
    """Takes the `step, tf_loss[...]` line that every CPU step prints off the screen."""
    tensorflow = utils.tf

    class QuietTensorFlow(types.ModuleType):
        def __getattr__(self, name):
            return getattr(tensorflow, name)

        @staticmethod
        def Print(input_, *_, **__):
            return input_

    utils.tf = QuietTensorFlow(tensorflow.__name__)


def see_no_package_in_a_plain_folder(resource_reader: types.ModuleType) -> None:
    """Lets gin go on where a folder has the name of a gin file's folder.

    It takes `runs/demo.gin` for a file of a package `runs`, among other things, and fails if
    there is a folder `runs` without Python in it: any run's output is one.
    """
    path_in_package = resource_reader._parse_config_path

    def path_or_value_error(config_path: str) -> str:
        try:
            return path_in_package(config_path)
        except TypeError as error:  # such a folder has no origin
            raise ValueError(f"no package holds {config_path}") from error

    resource_reader._parse_config_path = path_or_value_error


def hush_gin_lookups(resource_reader: types.ModuleType) -> None:
    """Stops gin from reporting as errors the places where it does not find a file.

    It looks in one place after another, and finds the file in the next.
    """
    import logging

    resource_reader.logging = logging.getLogger("gin.resource_reader")
    resource_reader.logging.setLevel(logging.CRITICAL)


def carry_metrics_out_of_microbatches(mesh_tensorflow: types.ModuleType) -> None:
    """Brings the routers' metrics out of the microbatch loop.

    What a layer reports inside upstream's loop is a tensor that no session can fetch.
    """
    from mtf_switch.layers import router_metrics

    mesh_tensorflow.serialize_training_step = router_metrics.wrap_serialize_training_step(
        mesh_tensorflow.serialize_training_step
    )


def take_flags_as_parsed(simd_mesh_impl: types.ModuleType) -> None:
    """Keeps Mesh TensorFlow's TPU code from reading this program's command line.

    It asks absl for flags of its own, and absl, if nobody has parsed anything yet, would parse
    `sys.argv` then, and fail on every flag that is not one of absl's.
    """
    del simd_mesh_impl
    import absl.flags

    if not absl.flags.FLAGS.is_parsed():
        absl.flags.FLAGS.mark_as_parsed()


def send_float32_as_float32(simd_mesh_impl: types.ModuleType) -> None:
    """Lets float32 tensors cross the cores of a TPU in float32.

    Upstream's all-to-all rounds them to bfloat16 on the way, for a bug of the time in which it
    was written: a float32 model, the first row of Table 2, would not be one.
    """

    def alltoall(self, x, mesh_axis, split_axis, concat_axis):
        groups = self._create_group_assignment([mesh_axis])
        received = simd_mesh_impl.tpu_ops.all_to_all(
            x.to_laid_out_tensor().one_slice,
            concat_dimension=concat_axis,
            split_dimension=split_axis,
            split_count=len(groups[0]),
            group_assignment=groups,
        )
        return self.LaidOutTensor([received])

    simd_mesh_impl.SimdMeshImpl.alltoall = alltoall


class HostDecodedVocabulary:
    """A vocabulary without `decode_tf`, so that Mesh TF returns ids and the host decodes.

    With `decode_tf` Mesh TF detokenises inside the graph: scoring then fails on a CPU and
    predictions are written as literal `b'...'`.
    """

    def __init__(self, vocabulary: Any):
        self._vocabulary = vocabulary

    def __getattr__(self, name: str) -> Any:
        # A copy asks before it has a vocabulary to ask.
        if name in ("decode_tf", "_vocabulary"):
            raise AttributeError(name)
        return getattr(self._vocabulary, name)


def quiet_logs() -> None:
    """Shows errors only: upstream logs each line twice, and failures that are none.

    Call it before TensorFlow is imported, or its C++ part has spoken already.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import warnings

    import absl.logging
    import tensorflow.compat.v1 as tf

    absl.logging.set_verbosity(absl.logging.ERROR)
    tf.logging.set_verbosity(tf.logging.ERROR)
    tf.get_logger().propagate = False
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", category=FutureWarning)


BEFORE_IMPORT: dict[str, Callable[[], None]] = {
    "mesh_tensorflow": restore_register_tensor_conversion_function,
    "t5.models": stand_in_for_torch_model,
}
AFTER_IMPORT: dict[str, tuple[Callable[[types.ModuleType], None], ...]] = {
    "gin.resource_reader": (hush_gin_lookups, see_no_package_in_a_plain_folder),
    "mesh_tensorflow": (carry_metrics_out_of_microbatches,),
    "mesh_tensorflow.placement_mesh_impl": (make_random_reproducible,),
    "mesh_tensorflow.simd_mesh_impl": (
        take_flags_as_parsed,
        make_random_reproducible_on_a_tpu,
        send_float32_as_float32,
    ),
    "mesh_tensorflow.transformer.utils": (silence_step_print,),
}


class _RepairingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of the two tables where they are, and repairs them as they load."""

    def find_spec(self, name, path, target=None):
        if name not in BEFORE_IMPORT and name not in AFTER_IMPORT:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None:
            # The loader keeps its class: pkg_resources looks resources up by it.
            spec.loader.exec_module = functools.partial(
                _execute_and_repair, spec.loader.exec_module, name
            )
        return spec


def _execute_and_repair(execute: Callable, name: str, module: types.ModuleType) -> None:
    if name in BEFORE_IMPORT:
        BEFORE_IMPORT[name]()
    execute(module)
    for repair in AFTER_IMPORT.get(name, ()):
        repair(module)


def repair_on_import() -> None:
    """Arranges every repair of this module; a second call changes nothing."""
    if any(isinstance(finder, _RepairingFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, _RepairingFinder())
    for name, repairs in AFTER_IMPORT.items():
        if name in sys.modules:
            for repair in repairs:
                repair(sys.modules[name])
