"""Runs a layer of Mesh TF's Transformer on its own, on one CPU device or several."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch.layers import recorded_sums
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl

M = "d_model"
# Layout rules for a mesh of one dimension.
LAYOUT = "batch:all,experts:all"
ROUTING_FIELDS = ("expert_index", "position_in_expert", "kept", "gate")


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The results of one run of a layer. All arrays are NumPy's, floats as float32.

    Attributes:
      y: The layer's output, shaped like x.
      losses: The losses that it appended to context.losses.
      variables: Values of the trainable variables, by name.
      grads: Gradients by the name of a variable, and "x"; empty if not differentiated.
      metrics: The routers' vectors of sums, by layer name.
      routing: ROUTING_FIELDS of a layer with a `router`, each [O, G, N]; else empty.
      fetched: The tensors that the `fetch` argument named.
      mesh_graph: The Mesh TF graph.
      tf_graph: The TensorFlow graph that it was lowered to.
      ops_run: Names of the operations that each device ran; empty without `trace`.
    """

    y: np.ndarray
    losses: list[np.ndarray]
    variables: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]
    routing: dict[str, np.ndarray]
    fetched: dict[str, np.ndarray]
    mesh_graph: mtf.Graph
    tf_graph: tf.Graph
    ops_run: dict[str, list[str]]


@dataclasses.dataclass(frozen=True)
class FakeModel:
    """The attributes of a Unitransformer that layers use."""

    model_dim: mtf.Dimension
    layout: Any = None
    mesh_shape: Any = None
    ensemble_dim: mtf.Dimension | None = None
    name: str = "encoder"
    fully_autoregressive: bool = False

    @property
    def ensemble_dims(self):
        return [self.ensemble_dim] if self.ensemble_dim else []


class NamedLayer:
    """The attribute of a layer that its metrics are named after."""

    name = "block_000/layer_001"


class RecordingRouter:
    """A router that keeps the Routing that it returned."""

    def __init__(self, router):
        self._router = router
        self.routing = None

    def route(self, *args, **kwargs):
        self.routing = self._router.route(*args, **kwargs)
        return self.routing


def run_layer(
    make_layer: Callable[[], Any],
    x: np.ndarray,
    *,
    dims: tuple[str, ...] = ("batch", "length"),
    nonpadding: np.ndarray | None = None,
    mode: str = "train",
    activation_dtype: Any = tf.float32,
    num_microbatches: int = 1,
    model: FakeModel | None = None,
    dy: np.ndarray | None = None,
    loss_weight: float = 1.0,
    differentiate: bool = True,
    fetch: Callable[[mtf.Graph], dict[str, mtf.Tensor]] | None = None,
    devices: int = 1,
    mesh_shape: str | None = None,
    layout: str = LAYOUT,
    **session: Any,
) -> Outcome:
    """Calls a layer on x [*dims, M] and differentiates sum(y * dy) + its losses.

    Args:
      make_layer: Called inside the graph.
      x: Float array, rank len(dims) + 1.
      dims: Names of all dimensions but the last.
      nonpadding: 0 and 1, with those of dims that are outer_batch, batch or length (beams
        share it), or None.
      mode, activation_dtype, num_microbatches: Attributes of the Context.
      model: By default a FakeModel made from x.
      dy: Gradient of the outputs, like x; ones if None.
      loss_weight: Factor of the layer's losses in what is differentiated.
      differentiate: Whether to compute gradients.
      fetch: Names more tensors of the finished graph whose values are wanted.
      devices, mesh_shape, layout, **session: See `evaluate`.
    """

    def build(mesh):
        shape = [mtf.Dimension(n, s) for n, s in zip((*dims, M), x.shape)]
        mtf_x = mtf.import_tf_tensor(mesh, tf.constant(x, tf.float32), mtf.Shape(shape))
        context = make_context(
            mesh,
            shape,
            sequence_id=_sequence_id(mesh, shape, nonpadding),
            mode=mode,
            activation_dtype=activation_dtype,
            num_microbatches=num_microbatches,
            model=model or FakeModel(shape[-1], *_parse_mesh(devices, mesh_shape, layout)),
        )
        tensors = _call_layer(make_layer(), context, mtf.cast(mtf_x, activation_dtype))
        if differentiate:
            y, losses = tensors["y"], tensors["losses"]
            tensors["grads"] = _gradients(mtf_x, y, losses, dy, loss_weight)
        return {**tensors, "fetched": fetch(mesh.graph) if fetch else {}}

    result = evaluate(build, devices=devices, mesh_shape=mesh_shape, layout=layout, **session)
    return Outcome(**result.pop("value"), **result)


def _call_layer(layer, context, x) -> dict[str, Any]:
    """Returns the tensors of an Outcome that a call of the layer makes, by field."""
    has_router = hasattr(layer, "router")
    if has_router:
        layer.router = RecordingRouter(layer.router)
    y = layer.call(context, x)
    routing = {}
    if has_router:
        routing = {name: getattr(layer.router.routing, name) for name in ROUTING_FIELDS}
    return {"y": y, "losses": list(context.losses), "grads": {}, "routing": routing}


def make_context(
    mesh: mtf.Mesh,
    shape: Sequence[mtf.Dimension],
    *,
    sequence_id: mtf.Tensor | None = None,
    mode: str = "train",
    activation_dtype: Any = tf.float32,
    num_microbatches: int = 1,
    model: FakeModel | None = None,
) -> transformer.Context:
    """Makes the Context that Mesh TF's Unitransformer passes to a layer.

    Args:
      mesh: The mesh of the tensors.
      shape: Dimensions of the layer's input.
      sequence_id: 0 for padding, or None.
      mode, activation_dtype, num_microbatches: Attributes of the Context.
      model: By default a FakeModel without a layout.
    """
    length = next((d for d in shape if d.name == "length"), None)
    model = model or FakeModel(shape[-1])
    position = None if length is None else mtf.range(mesh, length, tf.int32)
    order = position if model.fully_autoregressive else None
    context = transformer.Context(
        model=model,
        mesh=mesh,
        batch_dims=shape[:1],
        length_dim=length or mtf.Dimension("length", 1),
        position=position,
        read_priority=order,
        write_priority=order,
        variable_dtype=mtf.VariableDType(tf.float32, tf.float32, activation_dtype),
        mode=mode,
        sequence_id=sequence_id,
        losses=[],
        num_microbatches=num_microbatches,
    )
    context.current_layer = NamedLayer()
    return context


def evaluate(
    build: Callable[[mtf.Mesh], Any],
    *,
    devices: int = 1,
    mesh_shape: str | None = None,
    layout: str = LAYOUT,
    variables: dict[str, np.ndarray] | None = None,
    seed: int = 0,
    global_step: int = 0,
    trace: bool = False,
) -> dict[str, Any]:
    """Builds, lowers and runs a Mesh TF graph.

    Args:
      build: Makes a structure of Mesh TF tensors from a mesh.
      devices: Number of CPU devices, on which operations are really placed; one mesh
        dimension "all".
      mesh_shape: A mesh shape in its place, such as "data:2,model:2".
      layout: Layout rules.
      variables: Values by name; other variables keep their initial values.
      seed: Seed of the graph.
      global_step: Value of tf.train.get_global_step().
      trace: Whether to record which device ran what.

    Returns:
      "value", the structure as arrays; and "metrics", "variables", "mesh_graph", "tf_graph" and
      "ops_run", as in an Outcome.
    """
    with tf.Graph().as_default() as tf_graph:
        tf.set_random_seed(seed)
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        rules, cores = _parse_mesh(devices, mesh_shape, layout)
        result, ops_run = _lower_and_run(
            {"value": build(mesh)}, mesh, cores, rules, variables or {}, global_step, trace
        )
    return {**result, "mesh_graph": mesh.graph, "tf_graph": tf_graph, "ops_run": ops_run}


def _parse_mesh(devices, mesh_shape, layout) -> tuple[mtf.LayoutRules, mtf.Shape]:
    shape = mtf.convert_to_shape(mesh_shape or f"all:{devices}")
    return mtf.convert_to_layout_rules(layout), shape


def constant(
    mesh: mtf.Mesh, array: np.ndarray, dims: str, dtype: Any = tf.float32
) -> mtf.Tensor:
    """An array as a Mesh TF tensor; `dims` are the names of its dimensions.

    TensorFlow must not compute with it before the step runs: the kernels of its constant folding
    truncate products in bfloat16, where those of a step round.
    """
    shape = [mtf.Dimension(n, s) for n, s in zip(dims.split(), np.shape(array))]
    tensor = tf.placeholder_with_default(tf.constant(array, dtype), np.shape(array))
    return mtf.import_tf_tensor(mesh, tensor, mtf.Shape(shape))


def noise(step: int = 0, seed: int = 0, fn: Any = mtf.random_uniform, **mesh) -> np.ndarray:
    """Returns noise of one step from two operations: [2, batch 4, 3]. `mesh`: see evaluate."""

    def build(mesh):
        shape = [mtf.Dimension("batch", 4), mtf.Dimension("rep", 3)]
        return mtf.stack([fn(mesh, shape) for _ in range(2)], "operation")

    return evaluate(build, global_step=step, seed=seed, **mesh)["value"]


def multiplied_with(graph: mtf.Graph, kernel: str) -> tuple[mtf.Tensor, mtf.Tensor]:
    """Returns the tensor that the forward pass multiplies by a variable, and the product."""
    variable = next(v for v in graph.trainable_variables if v.name == kernel)
    product = next(
        op
        for op in graph.operations
        if isinstance(op, mtf.EinsumOperation) and variable.outputs[0] in op.inputs
    )
    (other,) = (t for t in product.inputs if t is not variable.outputs[0])
    return other, product.outputs[0]


def _sequence_id(mesh, shape, nonpadding):
    if nonpadding is None:
        return None
    id_dims = [d for d in shape[:-1] if d.name in ("outer_batch", "batch", "length")]
    return mtf.import_tf_tensor(mesh, tf.constant(nonpadding, tf.int32), mtf.Shape(id_dims))


def _gradients(x, y, losses, dy, loss_weight) -> dict[str, mtf.Tensor]:
    """Returns gradients of sum(y * dy) + loss_weight * losses for x and all variables."""
    if dy is None:
        weight = mtf.ones(x.mesh, y.shape)
    else:
        weight = mtf.import_tf_tensor(x.mesh, tf.constant(dy, tf.float32), y.shape)
    objective = mtf.reduce_sum(mtf.cast(y, tf.float32) * weight)
    weighted = [mtf.cast(loss, tf.float32) * loss_weight for loss in losses]
    variables = x.graph.trainable_variables
    grads = mtf.gradients(
        [mtf.add_n([objective, *weighted])], [*(v.outputs[0] for v in variables), x]
    )
    names = [*(v.name for v in variables), "x"]
    return {name: grad for name, grad in zip(names, grads) if grad is not None}


def _lower_and_run(tensors, mesh, cores, rules, values, global_step, trace):
    """Returns the tensors, metrics and variables as arrays, and what ran where."""
    devices = [f"cpu:{i}" for i in range(cores.size)]
    mesh_impl = SeededPlacementMeshImpl(cores, rules, devices)
    # Tensors in bfloat16 come back as float32, which holds them exactly.
    tensors = tf.nest.map_structure(
        lambda t: mtf.cast(t, tf.float32) if t.dtype.is_floating else t, tensors
    )
    lowering = mtf.Lowering(mesh.graph, {mesh: mesh_impl}, autostack=False)
    fetches = tf.nest.map_structure(lowering.export_to_tf_tensor, tensors)
    sums = recorded_sums.take(mesh.graph)
    fetches["metrics"] = {k: lowering.export_to_tf_tensor(t) for k, t in sums.items()}
    fetches["variables"] = {v.name: v.get_master() for v in mesh.graph.trainable_variables}
    # Without this, every "device" would silently be CPU:0.
    copy_masters_to_slices = lowering.copy_masters_to_slices()
    config = tf.ConfigProto(device_count={"CPU": len(devices)}, allow_soft_placement=False)
    metadata = tf.RunMetadata()
    options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE) if trace else None
    with tf.Session(config=config) as session:
        session.run(tf.global_variables_initializer())
        tf.train.get_global_step().load(global_step, session)
        variables = {v.op.name: v for v in tf.global_variables()}
        for name, value in values.items():
            variables[name].load(value, session)
        session.run(copy_masters_to_slices)
        result = session.run(fetches, options=options, run_metadata=metadata if trace else None)
    ops_run = collections.defaultdict(list)
    for device in metadata.step_stats.dev_stats:
        ops_run[device.device] += [node.node_name for node in device.node_stats]
    return result, dict(ops_run)
