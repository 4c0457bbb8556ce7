"""The five strategies of Figure 9 have the same results as one device.

Every core of the mesh is a separate CPU device. The default suite has 4 of them, and the two
strategies that split over two axes; the slow tests have 8 and all strategies. Everything that a
layout may legitimately change is pinned: the groups (`group_size`; by default, each core is one
group), the noise (drawn per part of a tensor), the initial values and the batches.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path

import mesh_tensorflow as mtf
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from mesh_harness import ROUTING_FIELDS, RecordingRouter
from mesh_tensorflow.transformer import utils
from strategies import STRATEGIES
from tiny_run import BATCH, INPUTS, TARGETS, TinyRun

from mtf_switch.config import bound_settings, gin_config
from mtf_switch.model import switch_transformer
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.runs import estimator

ONE = "one device"
STEPS = 20
LEARNING_RATE = 0.01
# One unit in the last place of float32, relative.
ULP = 2.0**-23
# Strategies on a mesh of 2 x 2 devices; the files in gin/layouts/ are for 8.
ON_4_DEVICES = ("model_data", "expert_model_data")
# One layer of each kind: graphs for many devices are large.
LAYERS = {
    "encoder": "[@transformer_layers.SelfAttention, @SwitchFFN]",
    "decoder": "[@transformer_layers.EncDecAttention, @transformer_layers.DenseReluDense]",
}
PINNED = {
    **{
        f"{stack}/transformer.make_layer_stack.layers": layers
        for stack, layers in LAYERS.items()
    },
    "num_experts": "8",
    "num_heads": "8",
    "d_kv": "4",
    "ExpertCapacity.group_size": "16",
    "dropout_rate": "0.0",
    "SwitchFFN.expert_dropout_rate": "0.0",
    "Exploration.jitter": "0.0",
    "init_scale.s": "1.0",
}


def layout_params(strategy: str, devices: int) -> dict[str, str]:
    """Returns the gin parameters of a strategy's layout on 4 or 8 devices."""
    params = ["MIXTURE_NAME = 'x'", "num_layers = 1"]
    if devices == 4:
        params += ["mesh.data = 2", "mesh.model = 2"]
    gin_config.parse([f"layouts/{strategy}.gin"], params)
    layout = bound_settings.read_settings().layout
    return {
        "utils.run.mesh_shape": repr(layout.mesh_shape),
        "utils.run.layout_rules": repr(layout.layout_rules),
        "run_config.devices.value": str(devices),
    }


@dataclasses.dataclass
class Run:
    """The results of training and evaluating one layout.

    Attributes:
      losses: The loss of each step, [STEPS].
      grads: variable -> gradient in the first step.
      routing: Field of ROUTING_FIELDS -> [STEPS, <all tokens of all Switch layers>].
      devices: The devices that ran something in the first step.
      checkpoint: Path of the weights after the last step.
      evaluated: checkpoint -> loss in evaluation.
    """

    losses: np.ndarray
    grads: dict[str, np.ndarray]
    routing: dict[str, np.ndarray]
    devices: set[str]
    checkpoint: str
    evaluated: dict[str, float] = dataclasses.field(default_factory=dict)


class Program:
    """A training step and an evaluation of the tiny model under one layout, in one session."""

    def __init__(self, tiny: TinyRun, strategy: str, dispatch: str, devices: int):
        params = {**PINNED, "SwitchFFN.dispatch": repr(dispatch)}
        if strategy != ONE:
            params.update(layout_params(strategy, devices))
        settings, vocabulary = tiny.parse(params)
        self._devices = estimator.assign_devices(settings.layout.size)
        built = switch_transformer.build(settings, vocabulary)
        with tf.Graph().as_default() as self._graph:
            tf.set_random_seed(0)
            tf.train.get_or_create_global_step()
            self._build(built, settings)
            self._saver = tf.train.Saver(tf.global_variables())
            config = estimator.session_config(False, self._devices)
            config.graph_options.rewrite_options.disable_meta_optimizer = True
            self._session = tf.Session(config=config)
            self._session.run(tf.global_variables_initializer())

    def _build(self, built, settings) -> None:
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        features = {}
        self._fed = {}
        for name, length in settings.sequence_length.items():
            self._fed[name] = tf.placeholder(tf.int32, [BATCH, length])
            shape = mtf.Shape([mtf.Dimension("batch", BATCH), mtf.Dimension("length", length)])
            features[name] = mtf.import_fully_replicated(mesh, self._fed[name], shape, name)
        layers = [
            layer
            for stack in switch_transformer.stacks(built)
            for layer in switch_transformer.switch_layers(stack)
        ]
        for layer in layers:
            layer.router = RecordingRouter(layer.router)
        call = functools.partial(
            built.call_simple,
            compute_loss=True,
            variable_dtype=utils.get_variable_dtype(),
            **features,
        )
        loss = call(mode="train")[1]
        routings = [
            {name: _whole(getattr(layer.router.routing, name)) for name in ROUTING_FIELDS}
            for layer in layers
        ]
        variables = mesh.graph.trainable_variables
        grads = mtf.gradients([loss], [v.outputs[0] for v in variables])
        updates = settings.optimizer(learning_rate=LEARNING_RATE).apply_grads(grads, variables)
        eval_loss = call(mode="eval")[1]
        impl = SeededPlacementMeshImpl(
            settings.mesh_shape, settings.layout_rules, self._devices
        )
        self._lowering = mtf.Lowering(mesh.graph, {mesh: impl}, autostack=False)
        export = self._lowering.export_to_tf_tensor
        self._loss, self._eval_loss = export(loss), export(eval_loss)
        self._grads = {v.name: export(grad) for v, grad in zip(variables, grads)}
        self._routings = tf.nest.map_structure(export, routings)
        self._updates = [self._lowering.lowered_operation(update) for update in updates]
        self._to_slices = self._lowering.copy_masters_to_slices()
        self._to_masters = self._lowering.copy_slices_to_masters()

    def restore(self, checkpoint: str) -> None:
        with self._graph.as_default():
            self._saver.restore(self._session, checkpoint)
        self._session.run(self._to_slices)

    def perturb(self, seed: int) -> None:
        """Changes every weight by up to one unit in its last place."""
        chooser = np.random.RandomState(seed)
        with self._graph.as_default():
            for variable in tf.trainable_variables():
                value = self._session.run(variable)
                noise = chooser.uniform(-ULP, ULP, size=value.shape)
                variable.load((value * (1 + noise)).astype(np.float32), self._session)
        self._session.run(self._to_slices)

    def save(self, path: Path) -> str:
        self._session.run(self._to_masters)
        with self._graph.as_default():
            return self._saver.save(self._session, str(path), write_meta_graph=False)

    def evaluate(self, checkpoint: str) -> float:
        self.restore(checkpoint)
        return float(self._session.run(self._eval_loss, self._batch(STEPS)))

    def train(self) -> tuple[list, dict, list, set]:
        """(losses, gradients of step 1, routings of each step, devices of step 1)."""
        losses, routings, devices = [], [], set()
        for step in range(STEPS):
            metadata = tf.RunMetadata()
            trace = tf.RunOptions(trace_level=tf.RunOptions.FULL_TRACE)
            (loss, grads, routing), _ = self._session.run(
                [[self._loss, self._grads if step == 0 else {}, self._routings], self._updates],
                self._batch(step),
                options=trace if step == 0 else None,
                run_metadata=metadata,
            )
            if step == 0:
                first = grads
                devices = {d.device for d in metadata.step_stats.dev_stats if d.node_stats}
            losses.append(loss)
            routings.append(routing)
        return losses, first, routings, devices

    def _batch(self, step: int) -> dict:
        """Ids with a pattern to learn, and padding at the ends."""
        chooser = np.random.RandomState(step)
        inputs = chooser.randint(3, 60, size=[BATCH, INPUTS])
        targets = (inputs[:, :TARGETS] * 2 + 1) % 60 + 3
        for row, length in enumerate(chooser.randint(INPUTS // 2, INPUTS + 1, size=BATCH)):
            inputs[row, length:] = 0
            targets[row, length // 2 :] = 0
        return {self._fed["inputs"]: inputs, self._fed["targets"]: targets}


def _whole(tensor: mtf.Tensor) -> mtf.Tensor:
    return mtf.cast(mtf.anonymize(tensor), tf.float32)


@pytest.fixture(scope="module")
def runs(request, tiny: TinyRun, tmp_path_factory: pytest.TempPathFactory):
    """(strategy -> Run, Runs of one device from perturbed weights, number of devices)."""
    dispatch, devices = request.param
    return (*_run_all(tiny, dispatch, devices, tmp_path_factory.mktemp(dispatch)), devices)


def _run_all(
    tiny: TinyRun, dispatch: str, devices: int, folder: Path
) -> tuple[dict[str, Run], list[Run]]:
    names = (ONE, *(ON_4_DEVICES if devices == 4 else STRATEGIES))
    programs = {name: Program(tiny, name, dispatch, devices) for name in names}
    start = programs[ONE].save(folder / "start")
    results = {}
    for name, program in programs.items():
        program.restore(start)
        results[name] = _run(program, folder / name.replace(" ", "_"))
    controls = []
    for seed in range(3):
        programs[ONE].restore(start)
        programs[ONE].perturb(seed)
        controls.append(_run(programs[ONE], folder / f"control_{seed}"))
    checkpoints = [start, *(run.checkpoint for run in results.values())]
    for name, program in programs.items():
        results[name].evaluated = {path: program.evaluate(path) for path in checkpoints}
    return results, controls


def _run(program: Program, path: Path) -> Run:
    losses, grads, routings, devices = program.train()
    flat = {
        name: np.stack([np.concatenate([r[name].ravel() for r in step]) for step in routings])
        for name in ROUTING_FIELDS
    }
    return Run(np.array(losses, np.float64), grads, flat, devices, program.save(path))


def flips(run: Run, reference: Run) -> np.ndarray:
    """[STEPS, tokens], True where two runs chose different experts for a token."""
    return run.routing["expert_index"] != reference.routing["expert_index"]


each_strategy = pytest.mark.parametrize(
    ("runs", "strategy"),
    [
        *(pytest.param(("einsum", 4), strategy) for strategy in ON_4_DEVICES),
        *(
            pytest.param((dispatch, 8), strategy, marks=pytest.mark.slow)
            for dispatch in ("einsum", "gather")
            for strategy in STRATEGIES
        ),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, tuple) else value,
    indirect=["runs"],
    scope="module",
)


@each_strategy
def test_the_first_loss_and_all_gradients_equal_those_of_one_device(runs, strategy):
    results, _, _ = runs
    one, run = results[ONE], results[strategy]
    np.testing.assert_allclose(run.losses[0], one.losses[0], rtol=1e-5)
    assert len(run.grads) == 21
    assert run.grads.keys() == one.grads.keys()
    for name, grad in one.grads.items():
        # Within 1e-5 of the tensor's largest gradient: sums over tokens in another order.
        scale = np.abs(grad).max()
        assert scale > 0, f"{name} is to have a gradient worth comparing"
        np.testing.assert_allclose(run.grads[name], grad, atol=1e-5 * scale, rtol=1e-5)


@each_strategy
def test_each_core_of_the_mesh_is_a_device_of_its_own(runs, strategy):
    results, _, devices = runs
    used = {device.split("device:")[1] for device in results[strategy].devices}
    assert used == {f"CPU:{i}" for i in range(devices)}


@each_strategy
def test_twenty_steps_stay_as_near_to_one_device_as_rounding_allows(runs, strategy):
    """The tolerance comes from runs of one device with perturbed weights, the controls.

    A layout adds float32 numbers up in another order. Each step changes results by some units
    in the last place, and training amplifies the changes. The controls measure by how much:
    they are the same run on one device, from weights that are changed by up to one unit in the
    last place. A layout rounds differently in every step and sum, the controls are perturbed
    only once, so the layout's distance may be ten times the controls' largest distance so far.
    The tolerance is never below ten units in the last place.

    If the two best experts of a token tie to within that distance, its argmax may flip, and the
    token goes through another expert. The gate is the maximum of the probabilities and thus
    continuous, so a flip comes from a tie only if the gates agree as well as those of all other
    tokens; that is asserted for each flip. From the first flip on, the distance of the loss may
    grow with the share of flipped tokens.
    """
    results, controls, _ = runs
    one, run = results[ONE], results[strategy]
    spread = np.max([np.abs(c.losses - one.losses) for c in controls], axis=0)
    rounding = 10 * np.maximum(np.maximum.accumulate(spread), ULP * one.losses)
    flipped = flips(run, one)
    first = int(np.argmax(flipped.any(axis=1))) if flipped.any() else STEPS
    distance = np.abs(run.losses - one.losses)
    assert (distance[: first + 1] <= rounding[: first + 1]).all(), (distance, rounding)
    gates = np.abs(run.routing["gate"] - one.routing["gate"])
    if first < STEPS:
        print(f"{strategy}: flips by step {flipped.sum(axis=1)}")
        largest_tie = gates[first][flipped[first]].max()
        others = np.max(
            [np.abs(c.routing["gate"] - one.routing["gate"])[first] for c in controls]
        )
        assert largest_tie <= 10 * max(others, ULP)
        # Each of the tokens of a step counts for 1 / (B L) of the loss, in nats of
        # ln(vocabulary).
        share = flipped.cumsum(axis=0).sum(axis=1) / flipped.shape[1]
        assert (distance <= rounding + share * np.log(512)).all()
    assert flipped.mean() < 0.001
    # The runs are worth comparing: the model learns, and experts fill up.
    assert one.losses[-1] < one.losses[0] - 0.3
    assert 0 < (1 - one.routing["kept"]).mean() < 0.6


@each_strategy
def test_a_checkpoint_of_any_layout_gives_the_same_evaluation_under_every_other(runs, strategy):
    results, _, _ = runs
    one, run = results[ONE], results[strategy]
    assert run.evaluated.keys() == one.evaluated.keys()
    assert len(run.evaluated) == len(results) + 1
    for checkpoint, loss in one.evaluated.items():
        assert run.evaluated[checkpoint] == pytest.approx(loss, rel=1e-5), checkpoint
    # Evaluations differ between checkpoints, or agreement would mean nothing.
    start, end = list(one.evaluated.values())[:2]
    assert end < start - 0.1
