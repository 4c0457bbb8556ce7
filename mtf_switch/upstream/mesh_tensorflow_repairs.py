"""Repairs of Mesh TensorFlow 0.1.21, except those of its noise and its microbatches."""

from __future__ import annotations

import types


def restore_register_tensor_conversion_function() -> None:
    """Restores a symbol that Mesh TensorFlow needs when it is imported.

    TensorFlow 2.13 moved `ops.register_tensor_conversion_function` to another module.
    """
    from tensorflow.python.framework import ops, tensor_conversion_registry

    if not hasattr(ops, "register_tensor_conversion_function"):
        ops.register_tensor_conversion_function = (
            tensor_conversion_registry.register_tensor_conversion_function
        )


def silence_step_print(utils: types.ModuleType) -> None:
    """Removes the `step, tf_loss[...]` line that every step on a CPU prints."""
    tensorflow = utils.tf

    class QuietTensorFlow(types.ModuleType):
        def __getattr__(self, name):
            return getattr(tensorflow, name)

        @staticmethod
        def Print(input_, *_, **__):
            return input_

    utils.tf = QuietTensorFlow(tensorflow.__name__)


def mark_flags_as_parsed(simd_mesh_impl: types.ModuleType) -> None:
    """Keeps Mesh TensorFlow's TPU code from parsing this program's command line.

    That code reads absl flags. If they have not been parsed yet, absl parses `sys.argv` at that
    moment, and fails on every unknown flag.
    """
    del simd_mesh_impl
    import absl.flags

    if not absl.flags.FLAGS.is_parsed():
        absl.flags.FLAGS.mark_as_parsed()


def keep_float32_in_all_to_all(simd_mesh_impl: types.ModuleType) -> None:
    """Lets the all-to-all of a TPU send float32 tensors as float32.

    Upstream rounds them to bfloat16 for the transfer, as a workaround for an old bug. With that
    rounding, the float32 model in the first row of Table 2 would not be a float32 model.
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
