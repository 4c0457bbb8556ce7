"""How tokens reach their experts: the values of `dispatch`, and what each of them means.

Three algorithms give equal results, see `dispatch`:

    einsum  the paper's one-hot products, as a TPU needs them
    gather  the same slots, filled and emptied by index
    sort    no slots: the tokens themselves, sorted by expert

A fourth value, "auto", chooses the fastest. On one core, "gather" sorts as well, because
sorting is the same exchange by index without empty slots. If XLA compiles the graph for CPUs or
GPUs (--runtime=pjrt), one core is treated as several are, because sorting needs dynamic shapes.

    dispatch  on a TPU  on one core, not a TPU  on several cores, not TPUs
    einsum    einsum    einsum                  einsum
    gather    gather    sort *                  gather
    sort      refused   sort *                  refused
    auto      einsum    sort *                  gather

    * If TensorFlow lacks an activation of the experts, "gather" is used and "sort" is refused.
"""

from __future__ import annotations

from typing import Literal, get_args

from mtf_switch.errors import UserError

Algorithm = Literal["einsum", "gather", "sort"]
Method = Literal["einsum", "gather", "sort", "auto"]
METHODS: tuple[Method, ...] = get_args(Method)


def resolve_method(
    method: Method,
    layer: str,
    *,
    on_tpu: bool,
    num_cores: int,
    can_sort: bool,
    compiled: bool = False,
) -> Algorithm:
    """Chooses the algorithm by the table in this module's docstring.

    Args:
      method: The `dispatch` value of a layer.
      layer: The layer's name in gin, for the error message.
      on_tpu: Whether the graph is built for a TPU.
      num_cores: Number of cores in the mesh.
      can_sort: Whether the experts' activations can be applied to sorted tokens.
      compiled: Whether XLA compiles the graph for a CPU or GPU.

    Raises:
      UserError: If the method is "sort" but tokens cannot be sorted.
    """
    if method == "sort":
        obstacle = None
        if on_tpu:
            obstacle = "a TPU cannot run it, as it needs static shapes"
        elif compiled:
            obstacle = "--runtime=pjrt cannot run it, as it needs static shapes"
        elif num_cores > 1:
            obstacle = f"it needs one core that holds everything, and the mesh has {num_cores}"
        elif not can_sort:
            obstacle = "TensorFlow lacks an activation of the experts"
        if obstacle:
            raise UserError(f"{layer}.dispatch is 'sort', but {obstacle}: use 'auto' instead.")
        return "sort"
    if method == "auto":
        method = "einsum" if on_tpu else "gather"
    if method == "gather" and not (on_tpu or compiled) and num_cores == 1 and can_sort:
        return "sort"
    return method
