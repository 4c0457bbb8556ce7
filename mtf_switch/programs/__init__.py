"""Programs of one core, in the form that XLA's compilers take: lowering and compilation.

A program is made from a TensorFlow graph that Mesh TensorFlow's SimdMeshImpl lowered. Nothing
in `program`, `lowering` and `stablehlo` depends on the kind of device that runs it.
"""
