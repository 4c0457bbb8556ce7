"""What the notebook of the lab needs: single layers, built, called and trained on one CPU.

Mesh TensorFlow builds a graph before it computes anything. These functions build the graph of
a few layers, run it, and return NumPy arrays. T is the number of tokens; the other letters are
those of `mtf_switch/layers/dimensions.py`.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import mesh_tensorflow as mtf
import numpy as np
import small_graphs
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import transformer_layers
from topics import Topics

from mtf_switch.layers.capacity import ExpertCapacity
from mtf_switch.layers.exploration import Exploration
from mtf_switch.layers.router import SwitchRouter
from mtf_switch.layers.router_metrics import RouterMetrics
from mtf_switch.layers.routing import Routing
from mtf_switch.layers.switch_ffn import SwitchFFN

# In a notebook, TensorFlow logs more than elsewhere.
tf.logging.set_verbosity(tf.logging.ERROR)


def make_switch_layer(
    num_experts: int,
    hidden_size: int,
    capacity_factor: float = 1.25,
    aux_loss_coef: float = 0.01,
    router_dtype: str = "float32",
) -> SwitchFFN:
    """Makes the project's Switch layer, without exploration noise.

    Args:
      num_experts: E.
      hidden_size: F, the hidden units of each expert.
      capacity_factor: The capacity factor (equation 3), in training and in evaluation.
      aux_loss_coef: alpha, the coefficient of the load-balancing loss (equation 4).
      router_dtype: "float32" or "bfloat16" (Section 2.4).
    """
    return SwitchFFN(
        num_experts,
        hidden_size,
        capacity=ExpertCapacity(capacity_factor, capacity_factor, min_expert_capacity=1),
        router=SwitchRouter(
            aux_loss_coef, exploration=Exploration("argmax"), router_dtype=router_dtype
        ),
    )


def make_dense_layer(hidden_size: int) -> transformer_layers.DenseReluDense:
    """Makes Mesh TF's dense feed-forward layer with F hidden units."""
    return transformer_layers.DenseReluDense(hidden_size)


@dataclasses.dataclass(frozen=True)
class Call:
    """One call of a Switch layer.

    Attributes:
      outputs: [T, M].
      expert: [T], the expert that the router chose for each token.
      position: [T], how many tokens are before it in that expert.
      kept: [T], False if the token is dropped.
      gate: [T], the router's probability for the chosen expert.
      weights: The values of the layer's variables, by name.
      metrics: The router's metrics.
    """

    outputs: np.ndarray
    expert: np.ndarray
    position: np.ndarray
    kept: np.ndarray
    gate: np.ndarray
    weights: dict[str, np.ndarray]
    metrics: RouterMetrics


class _RememberingRouter:
    """Passes calls on to a router, and remembers what it returned."""

    def __init__(self, router: SwitchRouter):
        self._router = router
        self.routing: Routing | None = None

    def route(self, *arguments: Any, **keywords: Any) -> Routing:
        self.routing = self._router.route(*arguments, **keywords)
        return self.routing


def call_layer(
    layer: SwitchFFN, x: np.ndarray, weights: dict[str, np.ndarray] | None = None, seed: int = 0
) -> Call:
    """Calls a Switch layer on tokens that form one group.

    Args:
      layer: The layer.
      x: [T, M] float.
      weights: Values for the layer's variables, by name; the others keep initial values.
      seed: Seed of the initial values.
    """
    layer.router = router = _RememberingRouter(layer.router)
    with tf.Graph().as_default():
        tf.set_random_seed(seed)
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        tokens = small_graphs.import_tokens(mesh, tf.constant(x, tf.float32))
        outputs = layer.call(small_graphs.make_context(tokens), tokens)
        routing = router.routing
        lowering = small_graphs.lower(mesh)
        tensors = {
            "outputs": outputs,
            "expert": routing.expert_index,
            "position": routing.position_in_expert,
            "kept": routing.kept,
            "gate": routing.gate,
        }
        fetches = {n: lowering.export_to_tf_tensor(tensor) for n, tensor in tensors.items()}
        (sums,) = small_graphs.export_sums(mesh, lowering)
        masters = {v.name: v.get_master() for v in mesh.graph.trainable_variables}
        with small_graphs.start_session(lowering, weights) as session:
            found, sums, values = session.run((fetches, sums, masters))
    return Call(
        outputs=found["outputs"].reshape(x.shape),
        expert=found["expert"].ravel(),
        position=found["position"].ravel(),
        kept=found["kept"].ravel() > 0,
        gate=found["gate"].ravel(),
        weights=values,
        metrics=RouterMetrics.from_sums(sums),
    )


@dataclasses.dataclass(frozen=True)
class Training:
    """A training run.

    Attributes:
      losses: [steps], the mean squared error before each step.
      load: [steps, E], the share of tokens that chose each expert of the first layer.
      dropped: [steps], the share of tokens that the first layer dropped.
      weights: The trained values, by name.
      final_loss: Mean squared error on 4,096 new tokens, with the trained values.
    """

    losses: np.ndarray
    load: np.ndarray
    dropped: np.ndarray
    weights: dict[str, np.ndarray]
    final_loss: float


def train(
    make_layers: Callable[[], list[Any]],
    task: Topics,
    steps: int = 300,
    tokens: int = 512,
    learning_rate: float = 0.01,
    init_scale: float = 1.0,
    seed: int = 0,
) -> Training:
    """Trains a stack of layers with Adam.

    Args:
      make_layers: Makes the layers. Each but the first is applied with a residual connection.
      task: The task.
      steps: Number of steps.
      tokens: T, tokens per step.
      learning_rate: Learning rate of Adam.
      init_scale: s of the initial weights (Section 2.4).
      seed: Seed of the initial weights and of the data.
    """
    width = task.centres.shape[1]
    with tf.Graph().as_default():
        tf.set_random_seed(seed)
        tf.train.get_or_create_global_step()
        x, y = (tf.placeholder(tf.float32, [tokens, width]) for _ in range(2))
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        error, loss = small_graphs.build_loss(mesh, x, y, make_layers(), init_scale)
        updates = small_graphs.build_updates(mesh, loss, learning_rate)
        lowering = small_graphs.lower(mesh)
        step = tf.group(*[lowering.lowered_operation(update) for update in updates])
        first = small_graphs.export_sums(mesh, lowering)[:1]
        error = lowering.export_to_tf_tensor(error)
        masters = {v.name: v.get_master() for v in mesh.graph.trainable_variables}
        rng = np.random.default_rng(seed)
        losses, routers = [], []
        with small_graphs.start_session(lowering) as session:
            for _ in range(steps):
                inputs, targets, _ = task.draw(tokens, rng)
                value, sums, _ = session.run((error, first, step), {x: inputs, y: targets})
                losses.append(value)
                routers += [RouterMetrics.from_sums(vector) for vector in sums]
            values = session.run(masters)
            test = np.random.default_rng(10_000)
            batches = [task.draw(tokens, test) for _ in range(-(-4096 // tokens))]
            final = [session.run(error, {x: b[0], y: b[1]}) for b in batches]
    return Training(
        np.array(losses),
        np.array([router.expert_load for router in routers]),
        np.array([router.dropped_fraction for router in routers]),
        values,
        float(np.mean(final)),
    )


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a layer costs in one training step.

    Attributes:
      parameters: Number of trainable weights.
      flops_per_token: FLOPs of the products that a token takes part in, forward and backward.
      temporary_bytes: The most memory that the step holds at a time, without the weights and
        their gradients.
      seconds: Median time of a step.
    """

    parameters: int
    flops_per_token: float
    temporary_bytes: int
    seconds: float


def measure(layer: Any, tokens: int, width: int, repeats: int = 7) -> Cost:
    """Measures a forward and backward pass of a layer on random tokens.

    FLOPs are counted by hand: a token passes the router, M x E, and the two matrices of one
    expert, M x F and F x M, each three times (forward, and the two gradients). TensorFlow
    reports each allocation of memory and its release.
    """
    with tf.Graph().as_default():
        tf.set_random_seed(0)
        tf.train.get_or_create_global_step()
        x = tf.random.normal([tokens, width], seed=1)
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        _, loss = small_graphs.build_loss(mesh, x, tf.zeros_like(x), [layer], 1.0)
        variables = mesh.graph.trainable_variables
        gradients = mtf.gradients([loss], [v.outputs[0] for v in variables])
        lowering = small_graphs.lower(mesh)
        fetches = [lowering.export_to_tf_tensor(gradient).op for gradient in gradients]
        times = []
        with small_graphs.start_session(lowering) as session:
            for _ in range(repeats + 1):
                start = time.perf_counter()
                session.run(fetches)
                times.append(time.perf_counter() - start)
            peak = _measure_peak_bytes(session, fetches)
    parameters = sum(variable.shape.size for variable in variables)
    products = width * getattr(layer, "num_experts", 0) + 2 * width * layer.hidden_size
    return Cost(parameters, 6.0 * products, peak - 4 * parameters, float(np.median(times[1:])))


def _measure_peak_bytes(session: tf.Session, fetches: list[tf.Operation]) -> int:
    """Returns the largest number of bytes that a run of the operations holds at a time."""
    options = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
    trace = tf.RunMetadata()
    session.run(fetches, options=options, run_metadata=trace)
    changes = sorted(
        (record.alloc_micros, record.alloc_bytes)
        for device in trace.step_stats.dev_stats
        for node in device.node_stats
        for memory in node.memory
        for record in memory.allocation_records
    )
    return int(np.cumsum([size for _, size in changes]).max())
