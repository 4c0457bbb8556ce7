"""A small graph with every collective, as StableHLO that runs on four CPU devices.

The oracle is NumPy on the values of all cores. JAX runs in a process of its own, because the
number of its devices is fixed when it starts.
"""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import tensorflow.compat.v1 as tf
from jax._src.interpreters import mlir as jax_mlir
from jax._src.lib.mlir import ir
from tensorflow.python.tpu.ops import tpu_ops

from mtf_switch.errors import UserError
from mtf_switch.programs import lowering
from mtf_switch.programs.program import Value

CORES = 4
PAIRS_OF_CORES = [[0, 1], [2, 3]]
# Every core sends to the next one.
RING = [[core, (core + 1) % CORES] for core in range(CORES)]
LOOPS = 3
STEP = 5

# Runs a program on CPU devices, and prints its outputs on each.
RUN = """
import json, sys
import numpy as np, jax
from jax._src.lib import xla_client
program, values = sys.argv[1:]
devices = jax.devices()
options = xla_client.CompileOptions()
options.num_replicas = len(devices)
options.executable_build_options.num_replicas = len(devices)
options.executable_build_options.device_assignment = xla_client.DeviceAssignment.create(
    np.arange(len(devices)).reshape(-1, 1))
client = devices[0].client
executable = client.compile(open(program, "rb").read(), options)
arguments = [
    [client.buffer_from_pyval(np.array(value, dtype), device)
     for value, device in zip(of_cores, devices)]
    for dtype, of_cores in json.loads(values)]
outputs = executable.execute_sharded(arguments).disassemble_into_single_device_arrays()
print(json.dumps([[np.asarray(each).tolist() for each in output] for output in outputs]))
"""


@pytest.fixture(scope="module")
def program():
    """variable <- variable + step + all_reduce(x), and results of the other collectives."""
    with tf.Graph().as_default():
        step = tf.train.get_or_create_global_step()
        x = tf.placeholder(tf.float32, [2, 4], name="x")
        variable = tf.placeholder(tf.float32, [2, 4], name="slice")
        reduced = tpu_ops.cross_replica_sum(x, PAIRS_OF_CORES)
        exchanged = tpu_ops.all_to_all(
            x,
            concat_dimension=0,
            split_dimension=1,
            split_count=2,
            group_assignment=PAIRS_OF_CORES,
        )
        permuted = tpu_ops.collective_permute(x, RING)

        def body(count, value):
            # The step is read inside of a loop, as by the noise of microbatches.
            added = tf.cast(step.read_value() * 0, tf.float32)
            return count + 1, tpu_ops.cross_replica_sum(value, PAIRS_OF_CORES) + added

        _, looped = tf.while_loop(lambda count, _: count < LOOPS, body, [0, x])
        with tf.control_dependencies([tf.Assert(reduced[0, 0] > 0, [reduced])]):
            update = variable + reduced + tf.cast(step, tf.float32)
        describe = lambda name, tensor: (  # noqa: E731
            Value(name, "float32", tuple(tensor.shape.as_list()), ("", "")),
            tensor,
        )
        return lowering.lower(
            [describe("x", x), describe("weights", variable)],
            [
                *(describe("weights", update), describe("exchanged", exchanged)),
                *(describe("permuted", permuted), describe("looped", looped)),
            ],
            mesh_shape="data:2,model:2",
            cores=CORES,
        )


def test_the_signature_has_the_step_and_donates_the_variable(program):
    signature = program.describe_signature()
    assert [(v["name"], v["donated_to"]) for v in signature["inputs"]] == [
        *(("x", None), ("weights", "weights"), ("global_step", None))
    ]
    assert [v["name"] for v in signature["outputs"]] == [
        *("weights", "exchanged", "permuted", "looped")
    ]
    assert program.donated == {0: 1}
    assert program.inputs[0].bytes == 2 * 4 * 4


def test_only_the_variables_argument_is_donated_to_its_output(program):
    """The second argument gives its memory to the first output, as JAX writes it."""
    with jax_mlir.make_ir_context():
        text = str(ir.Module.parse(program.stablehlo))
    assert text.count("tf.aliasing_output") == 1
    assert "%arg1: tensor<2x4xf32> {tf.aliasing_output = 0 : i32}" in text


@pytest.mark.parametrize(("name", "precision"), [(None, "DEFAULT"), ("float32", "HIGHEST")])
def test_products_have_the_precision_that_jax_is_set_to(name, precision):
    with tf.Graph().as_default(), jax.default_matmul_precision(name):
        x = tf.placeholder(tf.float32, [2, 2], name="x")
        given = [(Value("x", "float32", (2, 2), ("", "")), x)]
        product = tf.matmul(x, x) + tf.einsum("ij,kj->ik", x, x)
        found = [(Value("y", "float32", (2, 2), ("", "")), product)]
        program = lowering.lower(given, found, "", 1)
    with jax_mlir.make_ir_context():
        text = str(ir.Module.parse(program.stablehlo))
    assert text.count("stablehlo.dot") == 2
    assert text.count(f"[{precision}, {precision}]") == 2


def test_the_program_computes_on_four_devices_what_numpy_computes(program, tmp_path):
    """All values are small whole numbers, so float32 is exact."""
    random = np.random.RandomState(0)
    x = random.randint(1, 9, [CORES, 2, 4]).astype("float32")
    weights = random.randint(1, 9, [CORES, 2, 4]).astype("float32")
    path = tmp_path / "program"
    path.write_bytes(program.stablehlo)
    values = [
        *(("float32", x.tolist()), ("float32", weights.tolist()), ("int64", [STEP] * CORES))
    ]
    environment = {
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={CORES}",
        **{"JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"},
    }
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(path), json.dumps(values)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    updated, exchanged, permuted, looped = (np.array(v) for v in json.loads(done.stdout))
    pairs = x.reshape(2, 2, 2, 4)
    sums = np.repeat(pairs.sum(1, keepdims=True), 2, axis=1).reshape(x.shape)
    np.testing.assert_array_equal(updated, weights + sums + STEP)
    np.testing.assert_array_equal(permuted, x[[3, 0, 1, 2]])
    # Each sum of two equal sums doubles it.
    np.testing.assert_array_equal(looped, sums * 2 ** (LOOPS - 1))
    for core in range(CORES):
        first = core // 2 * 2
        part = slice(core % 2 * 2, core % 2 * 2 + 2)
        expected = np.concatenate([x[first][:, part], x[first + 1][:, part]], axis=0)
        np.testing.assert_array_equal(exchanged[core], expected)


def test_an_operation_that_xla_does_not_have_is_named_with_its_layer():
    with tf.Graph().as_default():
        x = tf.placeholder(tf.float32, [], name="x")
        with tf.name_scope("encoder/block_000/layer_001/SwitchFFN/"):
            length = tf.strings.length(tf.strings.as_string(x))
        with pytest.raises(
            UserError, match="cannot translate the operation encoder/block_000/layer_001/Switch"
        ):
            lowering.lower(
                [(Value("x", "float32", (), ()), x)],
                [(Value("length", "int32", (), ()), length)],
                mesh_shape="data:1",
                cores=1,
            )
