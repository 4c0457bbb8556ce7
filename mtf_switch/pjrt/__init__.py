"""Runs the steps of a run through PJRT, the runtime under JAX: `--runtime=pjrt`.

Mesh TensorFlow's SimdMeshImpl makes one program that every core runs, `mtf_switch.programs`
lowers it to StableHLO, and PJRT compiles and runs it on CPU devices, GPUs or TPUs, on one host
or several. The optimizer, the data and the checkpoints are those of the Estimator.
"""
