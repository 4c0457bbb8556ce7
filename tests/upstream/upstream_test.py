"""Each repair of the upstream packages: the fault without it, and the cure with it.

What depends on the order of imports runs in processes of its own; they take some seconds
each, so one process checks several things.
"""

import copy
import importlib.util
import inspect
import json
import logging
import os
import pathlib
import pickle
import subprocess
import sys
import textwrap
from unittest import mock

import gin
import mesh_harness
import mesh_tensorflow as mtf
import numpy as np
import pytest
import seqio
import tensorflow.compat.v1 as tf
from mesh_harness import noise
from mesh_tensorflow import simd_mesh_impl
from mesh_tensorflow.transformer import utils

from mtf_switch.config import gin_text
from mtf_switch.layers.switch_ffn import SwitchFFN
from mtf_switch.planning import pod_graph
from mtf_switch.upstream import repairs

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Speaks as upstream does. Only the last line is an error.
SPEAK = """
    import warnings
    import absl.logging
    import tensorflow.compat.v1 as tf
    warnings.warn("old, says Python", DeprecationWarning)
    absl.logging.info("much ado, says absl")
    tf.logging.warning("soon to go, says TensorFlow")
    tf.logging.error("a real error")
"""

# Prints the noise of a step and what is repaired.
REPORT = """
    import json
    import mesh_harness
    import mesh_tensorflow as mtf
    import mesh_tensorflow.transformer.utils
    print(json.dumps({
        "noise": mesh_harness.noise(step=3).tolist(),
        "Print": mesh_tensorflow.transformer.utils.tf.Print.__module__,
        "random": mtf.placement_mesh_impl.PlacementMeshImpl.random.__module__,
        "microbatches": mtf.serialize_training_step.__module__,
    }))
"""
REPAIRED = {
    "Print": "mtf_switch.upstream.repairs",
    "random": "mtf_switch.upstream.repairs",
    "microbatches": "mtf_switch.layers.router_metrics",
}


def run_python(*code):
    """Runs code in a new process; returns its standard output and its standard error."""
    env = {k: v for k, v in os.environ.items() if k != "TF_CPP_MIN_LOG_LEVEL"}
    # Python salts its hashes anew in each process unless it is told not to.
    env.pop("PYTHONHASHSEED", None)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])
    done = subprocess.run(
        [sys.executable, "-W", "default", "-c", "\n".join(map(textwrap.dedent, code))],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


# ---- how and when repairs are made


def test_importing_the_package_is_cheap_and_arranges_the_repairs_once():
    run_python("""
        import sys
        import mtf_switch
        heavy = {"tensorflow", "mesh_tensorflow", "t5", "seqio", "gin", "numpy", "absl"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        finders = len(sys.meta_path)
        mtf_switch.upstream.repairs.repair_on_import()
        assert len(sys.meta_path) == finders
    """)


def test_mesh_tensorflow_imports_after_the_package_even_where_it_failed_before():
    out, err = run_python(
        """
        try:
            import mesh_tensorflow
        except AttributeError as error:
            assert "register_tensor_conversion_function" in str(error)
        else:
            raise SystemExit("Mesh TensorFlow imports without the repair: drop the repair.")
        import mtf_switch
        import mesh_tensorflow
        """,
        REPORT,
        SPEAK,
    )
    report = json.loads(out)
    # Salted hashes and random seeds of this process and of that one.
    np.testing.assert_array_equal(report.pop("noise"), noise(step=3))
    assert report == REPAIRED
    # The silence of the next test is not for lack of noise.
    for line in ("old, says Python", "soon to go, says TensorFlow", "a real error", "oneDNN"):
        assert line in err


def test_packages_that_a_user_made_importable_and_imported_first_are_repaired_too():
    out, _ = run_python(
        """
        from tensorflow.python.framework import ops, tensor_conversion_registry
        ours = tensor_conversion_registry.register_tensor_conversion_function
        ops.register_tensor_conversion_function = ours
        import gin.resource_reader
        import logging
        import mesh_tensorflow.transformer.utils
        assert gin.resource_reader.logging is logging
        assert mesh_tensorflow.transformer.utils.tf.Print.__module__.startswith("tensorflow")
        import mtf_switch
        assert gin.resource_reader.logging is not logging
        """,
        REPORT,
    )
    report = json.loads(out)
    np.testing.assert_array_equal(report.pop("noise"), noise(step=3))
    assert report == REPAIRED


def test_t5_models_import_without_torch_and_quiet_logs_shows_errors_alone():
    out, err = run_python(
        """
        import sys
        import mtf_switch
        from mtf_switch.upstream import repairs
        repairs.quiet_logs()

        repair = repairs.BEFORE_IMPORT.pop("t5.models")
        try:
            import t5.models
        except ImportError as error:
            assert error.name == "torch", error
        else:
            raise SystemExit("t5.models imports without torch: drop the repair.")
        repairs.BEFORE_IMPORT["t5.models"] = repair

        import t5.models
        assert "torch" not in sys.modules
        assert t5.models.MtfModel
        try:
            t5.models.HfPyTorchModel("a name", "a directory", "a device")
        except ImportError as error:
            print(error)
        """,
        SPEAK,
    )
    assert out.strip() == (
        "t5.models.HfPyTorchModel needs torch, which mtf_switch does not install."
    )
    (line,) = err.strip().splitlines()
    assert line.endswith("a real error")


def test_every_repair_is_one_that_this_file_takes_out():
    # Add a test of the fault and the cure here before adding a repair there.
    assert set(repairs.BEFORE_IMPORT.values()) == {
        repairs.restore_register_tensor_conversion_function,
        repairs.stand_in_for_torch_model,
    }
    assert {repair for repairs in repairs.AFTER_IMPORT.values() for repair in repairs} == {
        repairs.hush_gin_lookups,
        repairs.see_no_package_in_a_plain_folder,
        repairs.carry_metrics_out_of_microbatches,
        repairs.make_random_reproducible,
        repairs.make_random_reproducible_on_a_tpu,
        repairs.take_flags_as_parsed,
        repairs.send_float32_as_float32,
        repairs.silence_step_print,
    }


# ---- gin's complaints, the step's print, decoding


@pytest.mark.parametrize("repaired", [False, True])
def test_gin_reports_no_error_for_a_place_without_the_file(monkeypatch, caplog, repaired):
    if not repaired:
        monkeypatch.setattr(gin.resource_reader, "logging", logging)
    assert not gin.resource_reader.system_path_file_exists("no/such/place.gin")
    assert ("Path not found" in caplog.text) == (not repaired)


@pytest.mark.parametrize("repaired", [False, True])
def test_gin_sees_no_package_in_a_folder_of_that_name(monkeypatch, tmp_path, repaired):
    (tmp_path / "outputs_of_runs").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    readers = gin.resource_reader
    if repaired:
        assert not readers.system_path_file_exists("outputs_of_runs/demo.gin")
    else:
        unrepaired = readers._parse_config_path.__closure__[0].cell_contents
        monkeypatch.setattr(readers, "_parse_config_path", unrepaired)
        with pytest.raises(TypeError):
            readers.system_path_file_exists("outputs_of_runs/demo.gin")


def test_gin_still_fails_for_a_file_that_is_nowhere():
    with pytest.raises(OSError, match=r"no/such/place\.gin"):
        gin.parse_config_file("no/such/place.gin")


@pytest.mark.parametrize("repaired", [False, True])
def test_a_step_prints_nothing(monkeypatch, capfd, repaired):
    if not repaired:
        monkeypatch.setattr(utils, "tf", tf)
    with tf.Graph().as_default(), tf.Session() as session:
        # As utils.py does with the loss of every step on a CPU.
        loss = utils.tf.Print(tf.constant(1.5), [tf.constant(7)], "step, tf_loss")
        assert session.run(loss) == 1.5
    assert ("step, tf_loss[7]" in capfd.readouterr().err) == (not repaired)


def test_the_rest_of_tensorflow_stays_as_it_is_for_utils():
    assert utils.tf.constant is tf.constant
    assert utils.tf.estimator is tf.estimator


def test_a_host_decoded_vocabulary_hides_decode_tf_and_nothing_else():
    vocabulary = seqio.ByteVocabulary()
    # What Mesh TF asks before it decodes inside the graph.
    assert hasattr(vocabulary, "decode_tf")
    hidden = repairs.HostDecodedVocabulary(vocabulary)
    for copied in (hidden, copy.deepcopy(hidden), pickle.loads(pickle.dumps(hidden))):
        assert not hasattr(copied, "decode_tf")
        assert copied.decode(copied.encode("Häuser")) == "Häuser"
        assert copied.vocab_size == vocabulary.vocab_size
        assert copied.eos_id == vocabulary.eos_id


# ---- random numbers


def as_on_disk(module):
    """A second copy of a module, which nobody repairs."""
    spec = importlib.util.spec_from_file_location(module.__name__, module.__file__)
    unrepaired = importlib.util.module_from_spec(spec)
    # Flags and gin's names can be registered once.
    no_flags = {"DEFINE_integer": mock.DEFAULT, "DEFINE_bool": mock.DEFAULT}
    with (
        mock.patch.multiple(tf.flags, **no_flags),
        mock.patch.object(gin, "configurable", lambda class_: class_),
    ):
        spec.loader.exec_module(unrepaired)
    return unrepaired


@pytest.fixture(scope="module")
def upstream_random():
    """PlacementMeshImpl.random as it is on disk."""
    return as_on_disk(mtf.placement_mesh_impl).PlacementMeshImpl.random


@pytest.mark.parametrize("repaired", [False, True])
def test_noise_of_a_step_is_the_same_in_every_run(monkeypatch, upstream_random, repaired):
    if not repaired:
        monkeypatch.setattr(
            mtf.placement_mesh_impl.PlacementMeshImpl, "random", upstream_random
        )
    assert np.array_equal(noise(step=5), noise(step=5)) == repaired


@pytest.mark.parametrize("fn", [mtf.random_uniform, mtf.random_normal])
def test_noise_differs_between_steps_seeds_and_operations(fn):
    first = noise(step=5, fn=fn)
    numbers = np.concatenate([first, noise(step=6, fn=fn), noise(step=5, seed=1, fn=fn)])
    assert len(np.unique(numbers)) == numbers.size


def test_noise_has_the_distribution_that_was_asked_for():
    # 3 * 2 * 12 numbers: the standard errors are 0.034 and 0.12.
    uniform, normal = (
        np.stack([noise(step=step, fn=fn) for step in range(3)])
        for fn in (mtf.random_uniform, mtf.random_normal)
    )
    assert 0 <= uniform.min() < 0.1
    assert 0.9 < uniform.max() < 1
    np.testing.assert_allclose(uniform.mean(), 0.5, atol=0.14)
    np.testing.assert_allclose(normal.mean(), 0.0, atol=0.5)
    np.testing.assert_allclose(normal.std(), 1.0, atol=0.4)


def seen_by_each_core(build_noise):
    """[4 cores, 3]: noise [3] that is not split, as each of four cores has it."""

    def build(mesh):
        rows = mtf.ones(mesh, [mtf.Dimension("batch", 4)])
        return mtf.einsum(
            [rows, build_noise(mesh)], [mtf.Dimension("batch", 4), mtf.Dimension("rep", 3)]
        )

    return mesh_harness.evaluate(build, devices=4, layout="batch:all")["value"]


def test_cores_that_hold_the_same_part_have_the_same_noise():
    cores = seen_by_each_core(lambda mesh: mtf.random_uniform(mesh, [mtf.Dimension("rep", 3)]))
    assert len(np.unique(cores[0])) == 3
    np.testing.assert_array_equal(cores, np.tile(cores[0], (4, 1)))


def test_cores_that_hold_different_parts_have_different_noise():
    parts = noise(devices=4, layout="batch:all")
    assert len(np.unique(parts)) == parts.size


def looped_noise(**mesh):
    """[batch 8, rep 3]: one noise [rep] of each of 4 microbatches, on each of its rows.

    Mesh TF deals rows out: rows 0 and 4 are in the first microbatch.
    """

    def build(mesh):
        kernel = mtf.get_variable(mesh, "kernel", [], initializer=tf.ones_initializer())

        def model_fn(features):
            x = features["x"]
            rep = mtf.random_uniform(mesh, [mtf.Dimension("rep", 3)])
            rows = mtf.einsum([x, rep], [*x.shape.dims, *rep.shape.dims])
            return {"loss": mtf.reduce_sum(x) * kernel, "rows": rows}

        x = mesh_harness.constant(mesh, np.ones(8), "batch")
        _, outputs = mtf.serialize_training_step({"x": x}, model_fn, x.shape.dims[0], 4)
        return outputs["rows"]

    return mesh_harness.evaluate(build, layout="batch:all", **mesh)["value"]


@pytest.fixture(params=["loops of TensorFlow 1", "loops of TensorFlow 2"])
def either_loop(request):
    """Mesh TF makes the one or the other: tf.disable_v2_behavior() decides."""
    before = tf.control_flow_v2_enabled()
    switch = tf.disable_control_flow_v2 if "1" in request.param else tf.enable_control_flow_v2
    switch()
    yield
    (tf.enable_control_flow_v2 if before else tf.disable_control_flow_v2)()


@pytest.mark.usefixtures("either_loop")
@pytest.mark.parametrize("devices", [1, 2])
def test_microbatches_differ_and_the_cores_and_runs_of_each_agree(devices):
    rows = looped_noise(devices=devices)
    # The two rows of a microbatch are on different cores, if there are two.
    np.testing.assert_array_equal(rows[:4], rows[4:])
    assert len(np.unique(rows[:4])) == 12
    np.testing.assert_array_equal(looped_noise(devices=devices), rows)
    later = looped_noise(devices=devices, global_step=1)
    assert not np.isin(later, rows).any()


# ---- metrics out of the microbatch loop


@pytest.mark.parametrize("repaired", [False, True])
def test_metrics_can_be_fetched_from_a_step_in_microbatches(monkeypatch, repaired):
    if not repaired:
        monkeypatch.setattr(mtf, "serialize_training_step", mtf.ops.serialize_training_step)

    def build(mesh):
        def model_fn(features):
            x = features["x"]
            context = mesh_harness.make_context(mesh, x.shape.dims, num_microbatches=2)
            return {"loss": mtf.reduce_sum(SwitchFFN(2, 3).call(context, x))}

        x = mesh_harness.constant(mesh, np.ones((4, 3, 2)), "batch length d_model")
        return mtf.serialize_training_step({"x": x}, model_fn, x.shape.dims[0], 2)[1]

    if repaired:
        (sums,) = mesh_harness.evaluate(build)["metrics"].values()
        assert sums[0] == 12
    else:
        with pytest.raises(ValueError, match=r"not fetchable|not an element of this graph"):
            mesh_harness.evaluate(build)


def test_the_tpu_code_does_not_parse_this_programs_command_line():
    """Its flags are absl's, which would read sys.argv at their first use, and fail on --devices."""
    code = (
        "import sys; sys.argv = ['run_switch.py', 'plan', '--gin_file=x']\n"
        "import mtf_switch\n"
        "from mesh_tensorflow import simd_mesh_impl\n"
        "shape = simd_mesh_impl.physical_shape_3d_from_topology_proto_4d([4, 4, 1, 2])\n"
        "assert shape == [4, 4, 2], shape\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=gin_text.REPOSITORY)


# ---- random numbers on a TPU: one program, which is told the number of its core


def noise_of_cores(step=0, seed=0, fn=mtf.random_uniform, **kwargs):
    """Noise [batch 4, 3] over the axis data of a mesh data:2,model:2: [4 cores, 2, 3].

    Also the types of the operations that make it.
    """
    with tf.Graph().as_default() as graph, tf.Session() as session:
        tf.set_random_seed(seed)
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        shape = [mtf.Dimension("batch", 4), mtf.Dimension("rep", 3)]
        drawn = fn(mesh, shape, **kwargs)
        cores = mtf.convert_to_shape("data:2,model:2")
        rules = mtf.convert_to_layout_rules("batch:data")
        impl = pod_graph._MeshOnPaper(cores, rules, None, None)
        lowering = mtf.Lowering(mesh.graph, {mesh: impl}, autostack=False)
        (slice_,) = lowering.tensors[drawn].to_laid_out_tensor().tensor_list
        session.run(tf.global_variables_initializer())
        tf.train.get_global_step().load(step, session)
        noise = np.stack([session.run(slice_, {impl.pnum_tensor: core}) for core in range(4)])
    return noise, {op.type for op in graph.get_operations()}


@pytest.mark.parametrize("fn", [mtf.random_uniform, mtf.random_normal])
def test_a_tpus_cores_agree_on_the_part_that_they_share_and_on_nothing_else(fn):
    noise, operations = noise_of_cores(fn=fn)
    # Cores 0 and 1 hold the first two rows, cores 2 and 3 the others.
    np.testing.assert_array_equal(noise[[0, 2]], noise[[1, 3]])
    assert len(np.unique(noise)) == noise.size // 2
    assert "CrossReplicaSum" not in operations
    assert not operations & {"RandomUniform", "RandomStandardNormal"}


def test_without_the_repair_cores_agree_by_an_all_reduce_of_noise_with_a_state(monkeypatch):
    repaired = simd_mesh_impl.SimdMeshImpl.random
    as_on_disk = inspect.getclosurevars(repaired).nonlocals["upstream_random"]
    monkeypatch.setattr(simd_mesh_impl.SimdMeshImpl, "random", as_on_disk)
    with pytest.raises(tf.errors.InvalidArgumentError, match="CrossReplicaSum"):
        noise_of_cores()


def test_a_tpus_noise_is_of_the_step_and_the_seed():
    first, _ = noise_of_cores(step=5)
    again, _ = noise_of_cores(step=5)
    np.testing.assert_array_equal(first, again)
    others = [noise_of_cores(**other)[0] for other in ({"step": 6}, {"step": 5, "seed": 1})]
    numbers = np.stack([first, *others])[:, [0, 2]]
    assert len(np.unique(numbers)) == numbers.size


def test_a_tpus_noise_has_the_distribution_that_was_asked_for():
    uniform, _ = noise_of_cores(minval=0.75, maxval=1.25)
    assert 0.75 <= uniform.min() < 0.9
    assert 1.1 < uniform.max() < 1.25
    normal = np.stack([noise_of_cores(step, fn=mtf.random_normal)[0] for step in range(6)])
    # 72 numbers: the standard error is 0.12.
    np.testing.assert_allclose(normal[:, [0, 2]].mean(), 0.0, atol=0.5)
    np.testing.assert_allclose(normal.std(), 1.0, atol=0.4)


@pytest.mark.parametrize("repaired", [False, True])
@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
def test_an_all_to_all_sends_what_it_is_given(monkeypatch, dtype, repaired):
    """Upstream rounds float32 to bfloat16 on the way; precision_test has whole models."""
    if not repaired:
        original = as_on_disk(simd_mesh_impl).SimdMeshImpl
        monkeypatch.setattr(simd_mesh_impl.SimdMeshImpl, "alltoall", original.alltoall)
    with tf.Graph().as_default() as graph:
        cores = simd_mesh_impl.SimdMeshImpl(
            mtf.convert_to_shape("all:4"), mtf.convert_to_layout_rules("split:all")
        )
        tokens = cores.LaidOutTensor([tf.zeros([8, 6], dtype)])
        received = cores.alltoall(tokens, mesh_axis=0, split_axis=0, concat_axis=1)
        assert received.one_slice.dtype == dtype
        assert received.one_slice.shape == [2, 24]
        (sent,) = (op.inputs[0] for op in graph.get_operations() if op.type == "AllToAll")
        assert sent.dtype == (dtype if repaired else tf.bfloat16)
