"""How and when repairs are made.

Tests that depend on the order of imports run in separate processes. They take some seconds
each, so one process checks several things.
"""

import importlib
import json
import sys
import types
from unittest import mock

import numpy as np
import pytest
from mesh_harness import noise
from unrepaired import run_python

from mtf_switch.upstream import import_hooks

# Logs and warns as upstream does. Only the last line is an error.
SPEAK = """
    import warnings
    import absl.logging
    import tensorflow.compat.v1 as tf
    warnings.warn("old, says Python", DeprecationWarning)
    absl.logging.info("much ado, says absl")
    tf.logging.warning("soon to go, says TensorFlow")
    tf.logging.error("a real error")
"""

# Prints the noise of a step, and infinity as gin writes it.
REPORT = """
    import json
    import gin
    import mesh_harness
    gin.parse_config("x = 1e400")
    print(json.dumps({
        "noise": mesh_harness.noise(step=3).tolist(),
        "x": repr(gin.query_parameter("%x")),
    }))
"""


def check_report(line):
    """Python salts hashes and seeds in that process and in this one: noise must agree."""
    report = json.loads(line)
    np.testing.assert_array_equal(report.pop("noise"), noise(step=3))
    assert report == {"x": "1e999"}


def test_importing_the_package_is_cheap_and_arranges_the_repairs_once():
    run_python("""
        import sys
        import mtf_switch
        heavy = {"tensorflow", "mesh_tensorflow", "t5", "seqio", "gin", "numpy", "absl"}
        assert not heavy & set(sys.modules), heavy & set(sys.modules)
        assert not {name for name in sys.modules if name.startswith("mtf_switch.layers")}
        finders = len(sys.meta_path)
        mtf_switch.upstream.import_hooks.repair_on_import()
        assert len(sys.meta_path) == finders
    """)


def test_mesh_tensorflow_imports_after_the_package_even_where_it_failed_before():
    """The TPU code's flags are absl's, which would parse sys.argv, and fail on --gin_file."""
    out, err = run_python(
        """
        import sys
        sys.argv = ["run_switch.py", "plan", "--gin_file=x"]
        try:
            import mesh_tensorflow
        except AttributeError as error:
            assert "register_tensor_conversion_function" in str(error)
        else:
            raise SystemExit("Mesh TensorFlow imports without the repair: drop the repair.")
        import mtf_switch
        import mesh_tensorflow
        from mesh_tensorflow import simd_mesh_impl
        shape = simd_mesh_impl.physical_shape_3d_from_topology_proto_4d([4, 4, 1, 2])
        assert shape == [4, 4, 2], shape
        """,
        REPORT,
        SPEAK,
    )
    check_report(out)
    # The next test is silent, although there is something to print.
    for line in ("old, says Python", "soon to go, says TensorFlow", "a real error", "oneDNN"):
        assert line in err


@pytest.mark.slow
def test_packages_that_a_user_made_importable_and_imported_first_are_repaired_too():
    """With the real packages; the next test has the same for a made-up module."""
    out, _ = run_python(
        """
        from tensorflow.python.framework import ops, tensor_conversion_registry
        ours = tensor_conversion_registry.register_tensor_conversion_function
        ops.register_tensor_conversion_function = ours
        import gin.resource_reader
        import logging
        import mesh_tensorflow.transformer.utils
        assert gin.resource_reader.logging is logging
        import mtf_switch
        assert gin.resource_reader.logging is not logging
        """,
        REPORT,
    )
    check_report(out)


def test_a_module_is_repaired_when_it_is_imported_and_at_once_if_it_was_imported_first(
    monkeypatch, tmp_path
):
    (tmp_path / "imported_later.py").write_text("value = 'faulty'\n")
    monkeypatch.syspath_prepend(tmp_path)
    first = types.ModuleType("imported_first")
    first.value = "faulty"
    monkeypatch.setitem(sys.modules, "imported_first", first)

    def repair(module):
        assert module.value == "faulty"
        module.value = "repaired"

    needed_before = mock.Mock()
    modules = ("imported_first", "imported_later", "never_imported")
    monkeypatch.setattr(import_hooks, "AFTER_IMPORT", {name: (repair,) for name in modules})
    monkeypatch.setattr(import_hooks, "BEFORE_IMPORT", {"imported_later": needed_before})
    monkeypatch.setattr(sys, "meta_path", [importlib.machinery.PathFinder])
    import_hooks.repair_on_import()
    assert first.value == "repaired"
    needed_before.assert_not_called()
    assert importlib.import_module("imported_later").value == "repaired"
    needed_before.assert_called_once_with()
    monkeypatch.delitem(sys.modules, "imported_later")
    # `repair` would fail if a second call had added a second finder.
    import_hooks.repair_on_import()
    assert importlib.import_module("imported_later").value == "repaired"
    monkeypatch.delitem(sys.modules, "imported_later")


def test_t5_models_import_without_torch_and_show_errors_only_shows_errors_alone():
    out, err = run_python(
        """
        import sys
        import mtf_switch
        from mtf_switch.upstream import import_hooks, logs
        logs.show_errors_only()

        repair = import_hooks.BEFORE_IMPORT.pop("t5.models")
        try:
            import t5.models
        except ImportError as error:
            assert error.name == "torch", error
        else:
            raise SystemExit("t5.models imports without torch: drop the repair.")
        import_hooks.BEFORE_IMPORT["t5.models"] = repair

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


def test_every_repair_is_one_that_a_test_takes_out():
    # Add a test of the fault and of the cure in this folder before adding a name here.
    assert {repair.__name__ for repair in import_hooks.BEFORE_IMPORT.values()} == {
        "restore_register_tensor_conversion_function",
        "install_stand_in_for_torch_model",
    }
    after = {repair for repairs in import_hooks.AFTER_IMPORT.values() for repair in repairs}
    assert {repair.__name__ for repair in after} == {
        "silence_failed_lookups",
        "keep_infinity",
        "ignore_folders_without_python",
        "mark_flags_as_parsed",
        "end_silent_downloads",
    }


@pytest.fixture
def delayed(tmp_path, monkeypatch):
    """A module that is delayed, and the file that it appends to when it is executed."""
    (tmp_path / "delayed_example.py").write_text(
        "import pathlib\n"
        "with open(pathlib.Path(__file__).with_suffix('.log'), 'a') as file: file.write('x')\n"
        "value = 3\n"
        "def double(number, *, plus=0): return 2 * number + plus\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(import_hooks.LAZY, "delayed_example", ("double",))
    yield importlib.import_module("delayed_example"), tmp_path / "delayed_example.log"
    sys.modules.pop("delayed_example")


def test_a_delayed_module_is_executed_once_when_it_is_used(delayed):
    module, log = delayed
    # What the import system and `inspect` read does not count as use.
    assert importlib.import_module("delayed_example") is module
    assert module.__spec__.name == module.__name__ == "delayed_example"
    assert module.__file__.endswith("delayed_example.py")
    assert not hasattr(module, "__wrapped__")
    assert hasattr(module, "double")
    assert not log.exists()
    assert (module.value, module.double(4)) == (3, 8)
    assert log.read_text() == "x"
    with pytest.raises(AttributeError):
        _ = module.nothing


def test_a_function_that_was_taken_before_works(delayed):
    from delayed_example import double

    _, log = delayed
    assert not log.exists()
    assert double(4, plus=1) == 9
    assert double(5) == 10
    assert log.read_text() == "x"


@pytest.fixture
def delayed_package(tmp_path, monkeypatch):
    """The names of a delayed package, of a delayed module in it, and of a usual one."""
    package = tmp_path / "delayed_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "delayed_too.py").write_text(
        "import sys\nparent = type(sys.modules['delayed_package'])\n"
    )
    (package / "usual.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    names = ("delayed_package", "delayed_package.delayed_too", "delayed_package.usual")
    for name in names[:2]:
        monkeypatch.setitem(import_hooks.LAZY, name, ())
    yield names
    for name in names:
        sys.modules.pop(name, None)


def are_delayed(names):
    return [type(sys.modules[name]) is import_hooks._DelayedModule for name in names]


def test_a_delayed_package_is_executed_before_a_module_in_it(delayed_package):
    package, inside, _ = delayed_package
    module = importlib.import_module(inside)
    assert are_delayed([package, inside]) == [True, True]
    assert module.parent is types.ModuleType
    assert are_delayed([package, inside]) == [False, False]


def test_importing_a_usual_module_in_a_delayed_package_executes_the_package(delayed_package):
    package, inside, usual = delayed_package
    importlib.import_module(inside)
    importlib.import_module(usual)
    assert are_delayed([package, inside]) == [False, True]


@pytest.mark.slow
def test_t5_is_imported_without_the_modules_of_its_metrics_and_they_work():
    printed, _ = run_python("""
        import sys
        import mtf_switch
        from mtf_switch.upstream import import_hooks
        import tensorflow as tf
        import t5.data.tasks
        from t5.evaluation import metrics
        tf.keras.preprocessing
        delayed = [type(sys.modules[name]).__name__ for name in import_hooks.LAZY]
        print(delayed == ["_DelayedModule"] * len(delayed))
        correlation = metrics.sklearn_metrics_wrapper("matthews_corrcoef")
        print(*correlation([1, 0, 1, 1], [1, 0, 1, 0]).values())
        print(*metrics.spearman_corrcoef([1, 2, 3], [3, 2, 1]).values())
        print(metrics.rouge(["a b c"], ["a b c"])["rouge1"])
        # A module inside of a delayed one, and one that reads the delayed one.
        import scipy.linalg.blas
        print(scipy.linalg.det([[2.0]]))
        import tensorflow_datasets as tfds
        data_set = tf.data.Dataset.from_tensor_slices({"a": [7, 8]})
        print(tfds.as_dataframe(data_set)["a"].sum())
    """)
    are_delayed, *values = printed.splitlines()
    assert are_delayed == "True"
    # 2 true positives, 1 true negative, 1 false negative: 2 / sqrt(2 * 3 * 1 * 2).
    expected = [2 / 12**0.5, -100.0, 100.0, 2.0, 15.0]
    assert [float(value) for value in values] == pytest.approx(expected)
