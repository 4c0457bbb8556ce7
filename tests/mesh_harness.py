"""Runs a layer of Mesh TF's Transformer on its own, on one CPU device or several."""

from __future__ import annotations

import dataclasses
from typing import Any, Callable, Optional

import mesh_tensorflow as mtf
import numpy as np
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer

from mtf_switch import router_metrics

M = "d_model"


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one run of a layer gave; all arrays are NumPy, floats as float32."""

    y: np.ndarray
    losses: list[np.ndarray]
    variables: dict[str, np.ndarray]
    grads: dict[str, np.ndarray]
    metrics: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class FakeModel:
    """What a layer asks of its Unitransformer."""

    model_dim: mtf.Dimension
    layout: Any = None
    mesh_shape: Any = None
    ensemble_dim: Optional[mtf.Dimension] = None
    name: str = "encoder"

    @property
    def ensemble_dims(self):
        return [self.ensemble_dim] if self.ensemble_dim else []


class NamedLayer:
    """The part of a layer that names its metrics."""

    name = "block_000/layer_001"


def run_layer(
    make_layer: Callable[[], Any],
    x: np.ndarray,
    *,
    dims: tuple[str, ...] = ("batch", "length"),
    nonpadding: Optional[np.ndarray] = None,
    mode: str = "train",
    activation_dtype: Any = tf.float32,
    variables: Optional[dict[str, np.ndarray]] = None,
    devices: int = 1,
    layout: str = "batch:all,experts:all",
    num_microbatches: int = 1,
    dy: Optional[np.ndarray] = None,
    beam: bool = False,
    seed: int = 0,
    model: Optional[FakeModel] = None,
    global_step: int = 0,
) -> Outcome:
    """Calls a layer on x [*dims, M] and differentiates sum(y * dy) + its losses.

    Args:
      make_layer: called inside the graph.
      x: float array, rank len(dims) + 1.
      dims: names of all but the last dimension.
      nonpadding: [batch, length] of 0 and 1, or None.
      mode: of the Context.
      activation_dtype: of x and y.
      variables: values by name; others keep their initial values.
      devices: CPU devices, really placed on.
      layout: layout rules over the one mesh dimension "all".
      num_microbatches: told to the layer, which divides its loss by it.
      dy: like x, the gradient of the outputs; ones if None.
      beam: whether a dimension of x is a beam, which sequence ids lack.
      seed: of the graph.
      model: in place of a FakeModel made from x.
      global_step: what tf.train.get_global_step() holds.
    """
    del beam
    with tf.Graph().as_default() as graph:
        tf.set_random_seed(seed)
        step = tf.train.get_or_create_global_step()
        mesh_graph = mtf.Graph()
        mesh = mtf.Mesh(mesh_graph, "mesh")
        mesh_shape = mtf.convert_to_shape(f"all:{devices}")
        rules = mtf.convert_to_layout_rules(layout)
        shape = [mtf.Dimension(n, s) for n, s in zip((*dims, M), x.shape)]
        model = model or FakeModel(shape[-1], rules, mesh_shape)
        mtf_x = mtf.import_tf_tensor(mesh, tf.constant(x, tf.float32), mtf.Shape(shape))
        sequence_id = None
        if nonpadding is not None:
            id_dims = [d for d in shape[:-1] if d.name in ("outer_batch", "batch", "length")]
            sequence_id = mtf.import_tf_tensor(
                mesh, tf.constant(nonpadding, tf.int32), mtf.Shape(id_dims)
            )
        context = transformer.Context(
            model=model,
            mesh=mesh,
            batch_dims=shape[:1],
            length_dim=next((d for d in shape if d.name == "length"), mtf.Dimension("length", 1)),
            variable_dtype=mtf.VariableDType(tf.float32, tf.float32, activation_dtype),
            mode=mode,
            sequence_id=sequence_id,
            losses=[],
            num_microbatches=num_microbatches,
        )
        context.current_layer = NamedLayer()
        y = make_layer().call(context, mtf.cast(mtf_x, activation_dtype))
        y32 = mtf.cast(y, tf.float32)
        weight = (
            mtf.ones(mesh, y.shape)
            if dy is None
            else mtf.import_tf_tensor(mesh, tf.constant(dy, tf.float32), y.shape)
        )
        objective = mtf.reduce_sum(y32 * weight)
        losses = [mtf.cast(loss, tf.float32) for loss in context.losses]
        total = mtf.add_n([objective, *losses])
        trainable = mesh_graph.trainable_variables
        grads = mtf.gradients([total], [v.outputs[0] for v in trainable] + [mtf_x])
        mesh_impl = mtf.placement_mesh_impl.PlacementMeshImpl(
            mesh_shape, rules, [f"cpu:{i}" for i in range(devices)]
        )
        lowering = mtf.Lowering(mesh_graph, {mesh: mesh_impl}, autostack=False)
        export = lowering.export_to_tf_tensor
        fetches = {
            "y": export(y32),
            "losses": [export(loss) for loss in losses],
            "grads": {
                name: export(g)
                for name, g in zip([v.name for v in trainable] + ["x"], grads)
                if g is not None
            },
            "metrics": router_metrics.recorded(graph),
            "variables": {v.name: v for v in tf.trainable_variables()},
        }
        fetches["variables"] = {v.name[:-2]: v for v in tf.trainable_variables()}
        config = tf.ConfigProto(device_count={"CPU": devices}, allow_soft_placement=False)
        with tf.Session(config=config) as session:
            session.run(tf.global_variables_initializer())
            session.run(tf.assign(step, global_step))
            for name, value in (variables or {}).items():
                variable = next(v for v in tf.global_variables() if v.name == f"{name}:0")
                variable.load(value, session)
            session.run(lowering.copy_masters_to_slices())
            result = session.run(fetches)
    return Outcome(**result)
