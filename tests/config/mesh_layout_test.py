"""Mesh layouts as data: which are read, which are refused, and the messages."""

from __future__ import annotations

import json
import re
import types

import mesh_tensorflow as mtf
import pytest
import tensorflow.compat.v1 as tf
from mesh_tensorflow.transformer import utils
from strategies import STRATEGIES
from tiny_run import BATCH, FEW_LAYERS

from mtf_switch.config import bound_settings, gin_config, mesh_layout
from mtf_switch.config.mesh_layout import MeshLayout, Tensor
from mtf_switch.errors import UserError
from mtf_switch.model import switch_transformer
from mtf_switch.runs import estimator


def test_both_of_mesh_tensorflows_notations_are_read():
    text = MeshLayout.parse("data:4;model:2", "batch:data;d_ff:model")
    mtf_objects = MeshLayout.parse(
        mtf.convert_to_shape("data:4,model:2"),
        mtf.convert_to_layout_rules("batch:data,d_ff:model"),
    )
    pairs = MeshLayout.parse(
        [("data", 4), ("model", 2)], [("batch", "data"), ("d_ff", "model")]
    )
    assert text == mtf_objects == pairs
    assert (text.size, text.ways("batch"), text.ways("d_ff"), text.ways("heads")) == (
        8,
        4,
        2,
        1,
    )
    assert (text.mesh_shape, text.layout_rules) == (
        "data:4,model:2",
        "batch:data,d_ff:model",
    )


def test_the_mesh_of_the_layout_files_is_written_in_mesh_tensorflows_notation():
    assert mesh_layout.mesh(4, 2) == "data:4,model:2"


def test_axes_of_one_core_are_left_out_and_may_be_named_by_rules():
    layout = MeshLayout.parse("data:8,model:1", "batch:data,d_ff:model")
    assert layout == MeshLayout((("data", 8),), (("batch", "data"),))
    assert MeshLayout.parse("", "batch:batch,d_ff:model") == MeshLayout()


def test_a_core_holds_its_part_of_a_tensor():
    layout = MeshLayout.parse("data:4,model:2", "experts:data,expert_hidden:model")
    assert layout.slice_size({"experts": 8, "d_model": 16, "expert_hidden": 32}) == 2 * 16 * 16


@pytest.mark.parametrize(
    ("mesh_shape", "rules", "message"),
    [
        ("data8", "", r"utils.run.mesh_shape = 'data8' cannot be read at 'data8': write pairs, as in 'data:8,model:4'"),
        ("data:8", "batch", r"utils.run.layout_rules = 'batch' cannot be read at 'batch'"),
        ("data:0", "", r"Mesh axis 'data' has 0 cores, but .* at least 1"),
        ("data:many", "", r"Mesh axis 'data' has many cores"),
        ("data:2,data:4", "", r"Mesh axis 'data' is in utils.run.mesh_shape twice"),
        ("data:8", "batch:dat", r"batch:dat names a mesh axis 'dat', which the mesh does not have: its axes are data. The nearest names are: data. Add"),
        ("data:8,model:1", "experts:expert", r"names a mesh axis 'expert', which the mesh does not have: its axes are data, model\."),
        ("all:8", "batch:batch", r"names a mesh axis 'batch', which the mesh does not have: its axes are all"),
        ("data:8,model:2", "batch:data,batch:model", r"split 'batch' over data and model: a dimension can be split over only one"),
        ("data:8", "expert:data", r"expert:data would split nothing: no tensor has a dimension 'expert'. The nearest names are: experts"),
    ],
)  # fmt: skip
def test_a_layout_that_makes_no_sense_is_refused(mesh_shape, rules, message):
    with pytest.raises(UserError, match=message):
        MeshLayout.parse(mesh_shape, rules)


def test_the_rules_of_t5_hold_for_the_meshes_of_t5():
    """`tpu_mesh_shape` omits axes of one core, but T5's rules still name them."""
    rules = "ensemble:ensemble,batch:batch,d_ff:model,heads:model,vocab:model,experts:batch"
    layout = MeshLayout.parse(mtf.convert_to_shape("batch:8"), rules)
    assert layout.layout_rules == "batch:batch,experts:batch"


def test_two_dimensions_of_one_tensor_on_one_axis_are_refused():
    layout = MeshLayout.parse("data:4,model:2", "d_model:model,d_ff:model")
    with pytest.raises(
        UserError,
        match=r"^weights \[d_model 16, d_ff 32\] would have two dimensions on one mesh axis: "
        r"rules d_model:model and d_ff:model both split it over the 2 cores of 'model'",
    ):
        layout.check([Tensor("weights", (("d_model", 16), ("d_ff", 32)))])


def test_a_dimension_that_its_axis_does_not_divide_is_refused_with_the_nearest_that_do():
    layout = MeshLayout.parse("data:4,model:8", "heads:model")
    tensor = Tensor("queries", (("batch", 8), ("heads", 12)), {"heads": "of num_heads"})
    with pytest.raises(
        UserError,
        match=r"^queries \[batch 8, heads 12\] cannot be split: layout rule heads:model "
        r"splits its 'heads' of 12 over the 8 cores of mesh axis 'model', and 8 does not divide 12. "
        r"The nearest sizes of num_heads that work: 8 and 16; the nearest numbers of cores for "
        r"'model' that divide 12: 6 and 12\.$",
    ):
        layout.check([tensor])


@pytest.mark.parametrize(
    ("bindings", "message"),
    [
        ({"utils.run.batch_size": "12"}, r"encoder's input \[outer_batch 1, batch 12, length 32, d_model 16\].*of 12 over the 8 cores"),
        ({"utils.run.layout_rules": "'outer_batch:data'", "utils.tpu_estimator_model_fn.outer_batch_size": "4"}, r"encoder's input .*'outer_batch' of 4 over the 8 cores.* of utils.tpu_estimator_model_fn.outer_batch_size that work: 8;"),
        ({"utils.run.layout_rules": "'outer_batch:data'", "utils.tpu_estimator_model_fn.outer_batch_size": "0"}, r"layer_001: experts' slots .*'outer_batch' of 1 over the 8 cores.* without utils.tpu_estimator_model_fn.outer_batch_size\) that work: 8;"),
        ({"utils.run.layout_rules": "'outer_batch:data,experts:data'", "utils.tpu_estimator_model_fn.outer_batch_size": "8"}, r"layer_001: experts' slots .* two dimensions on one mesh axis"),
        ({"num_experts": "12"}, r"encoder/block_000/layer_001: experts' weights \[experts 12, .*num_experts that work: 8 and 16"),
        ({"mesh.model": "3"}, r"encoder's embedding \[vocab 512, d_model 16\] .*of the padded vocabulary that work: 510 and 513"),
        ({"mesh.model": "4"}, r"layer_000: attention's weights \[d_model 16, heads 2, d_kv 8\] .*num_heads that work: 4;"),
        ({"mesh.model": "2", "d_ff": "33", "encoder/transformer.make_layer_stack.layers": "[@transformer_layers.SelfAttention, @transformer_layers.DenseReluDense]"}, r"encoder/block_000/layer_001: weights \[d_model 16, d_ff 33\].* of d_ff that work: 32 and 34"),
        ({"utils.run.layout_rules": "'batch:data,length:data'"}, r"encoder's input .* two dimensions on one mesh axis"),
        ({"utils.run.layout_rules": "'batch:data,expert_unsplit:data'"}, r"probabilities of experts .* two dimensions"),
    ],
)  # fmt: skip
def test_a_model_that_a_layout_cannot_split_is_refused_before_it_is_built(
    tiny, tmp_path, bindings, message
):
    """On the command line, the message names the tensor, and nothing is left behind."""
    layout = {
        "num_experts": "8",
        "utils.run.mesh_shape": "@mesh()",
        "mesh.data": "8",
        "utils.run.layout_rules": (
            "'batch:data,experts:data,d_ff:model,expert_hidden:model,heads:model,vocab:model'"
        ),
    }
    devices = f"--devices={8 * int(bindings.get('mesh.model', 1))}"
    result = tiny.train(tmp_path / "m", devices, params={**layout, **bindings})
    assert result.code == 1
    assert re.search(message, result.err), result.err
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_has_a_file_of_8_cores(strategy, tiny):
    gin_config.parse([f"layouts/{strategy}.gin"], ["MIXTURE_NAME = 'a_task'", "num_layers = 1"])
    layout = bound_settings.read_settings().layout
    split = {dimension: layout.ways(dimension) for dimension, _ in layout.rules}
    assert layout.size == 8
    assert ("batch" in split) == ("data" in strategy)
    assert ("d_ff" in split) == ("model" in strategy)
    assert ("experts" in split) == ("expert" in strategy)


@pytest.fixture(scope="module")
def forward(tiny):
    """(tensors for the check, shapes of all tensors of the graph) of one tiny model."""
    # Enough groups for every mesh, because the capacity has its own check of their number.
    settings, vocabulary = tiny.parse({"num_experts": "6", "ExpertCapacity.group_size": "16"})
    built = switch_transformer.build(settings, vocabulary)
    operations = _forward_graph(built, settings).operations
    shapes = {str(t.shape): t.shape for operation in operations for t in operation.outputs}
    return list(switch_transformer.list_tensors_to_split(built, settings)), list(
        shapes.values()
    )


@pytest.mark.parametrize("mesh_shape", ["data:2,model:2", "data:4,model:2", "data:2,model:3"])
@pytest.mark.parametrize(
    "rules",
    [
        "batch:data,experts:data",
        "batch:data,expert_hidden:model,d_ff:model,heads:model,vocab:model",
        "batch:data,experts:model",
        "d_model:model",
        "d_model:model,d_ff:model",
        "d_model:model,heads:model",
        "length:data",
        "outer_batch:data",
        "heads:model,d_kv:model",
        "batch:data,vocab:model,d_model:model",
    ],
)
def test_the_check_agrees_with_mesh_tensorflow_on_every_tensor_of_the_graph(
    forward, mesh_shape, rules
):
    """A layout is refused if and only if Mesh TF cannot lay out some tensor of the model."""
    tensors, shapes = forward
    layout = MeshLayout.parse(mesh_shape, rules)
    impl = mtf.placement_mesh_impl.PlacementMeshImpl(
        layout.mesh_shape, layout.layout_rules, [""] * layout.size
    )
    try:
        layout.check(tensors)
        refused = False
    except UserError:
        refused = True
    assert refused == any(_refuses(impl, shape) for shape in shapes)


def _refuses(impl, shape):
    try:
        impl.slice_shape(shape)
    except ValueError:
        return True
    return False


def _forward_graph(built, settings):
    with tf.Graph().as_default():
        tf.train.get_or_create_global_step()
        mesh = mtf.Mesh(mtf.Graph(), "mesh")
        ids = {
            name: mtf.zeros(
                mesh,
                mtf.Shape([mtf.Dimension("batch", BATCH), mtf.Dimension("length", length)]),
                dtype=tf.int32,
            )
            for name, length in settings.sequence_length.items()
        }
        built.call_simple(
            **ids, compute_loss=True, mode="train", variable_dtype=utils.get_variable_dtype()
        )
    return mesh.graph


@pytest.mark.parametrize(
    ("configured", "devices", "mesh_shape"),
    [
        ("data:4,model:2", 8, "data:4,model:2"),
        ("data:4,model:2", 1, ""),
        ("data:4,model:2", None, "data:4,model:2"),
        ("", 4, "data:4"),
        ("", 1, ""),
    ],
)
def test_devices_and_layout_together(configured, devices, mesh_shape):
    layout = MeshLayout.parse(configured, "batch:data")
    got = mesh_layout.adapt_to_devices(layout, devices)
    assert got.mesh_shape == mesh_shape
    if not configured and devices > 1:
        assert got.layout_rules == "batch:data,experts:data"


def test_another_number_of_devices_than_the_mesh_has_is_refused(tiny, tmp_path):
    mesh = {
        "utils.run.mesh_shape": "'data:4,model:2'",
        "utils.run.layout_rules": "'batch:data'",
    }
    result = tiny.train(tmp_path / "m", "--devices=4", params=mesh)
    assert result.code == 1
    assert "the layout's mesh data:4,model:2 has 8 cores. Pass --devices=8" in result.err


def test_a_mesh_without_devices_is_refused_where_upstream_would_stack_it_on_one(tiny, tmp_path):
    mesh = {"utils.run.mesh_shape": "'data:4'", "utils.run.layout_rules": "'batch:data'"}
    result = tiny.train(tmp_path / "m", params=mesh)
    assert result.code == 1
    assert "The mesh data:4 has 4 cores. Pass --devices=4" in result.err
    assert not (tmp_path / "m").exists()


def test_devices_of_this_machine_and_a_tpu_exclude_each_other(tiny, tmp_path):
    result = tiny.train(tmp_path / "m", "--devices=4", "--tpu=local")
    assert result.code == 1
    assert "--devices runs on this machine and --tpu on another one" in result.err


# layout_equality_test compares the layers' evaluation of one checkpoint in the default suite.
@pytest.mark.slow
def test_what_two_devices_trained_is_evaluated_alike_on_one(tiny, tmp_path):
    """On the command line. A folder keeps its number of devices until another one is passed."""
    trained = tiny.train(tmp_path / "m", "--steps=1", "--devices=2", params=FEW_LAYERS)
    assert trained.code == 0, trained.err
    losses = []
    for devices in ([], ["--devices=1"]):
        result = tiny.command(
            "eval", f"--model_dir={tmp_path / 'm'}", "--eval_batches=2", *devices
        )
        assert result.code == 0, result.err
        evaluated = json.loads((tmp_path / "m" / "eval-first16.json").read_text())
        losses.append(evaluated["neg_log_perplexity"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_fewer_gpus_than_cores_are_refused(monkeypatch):
    gpus = [types.SimpleNamespace()] * 2
    monkeypatch.setattr(estimator.tf.config, "list_physical_devices", lambda kind: gpus)
    assert estimator.assign_devices(2) == ["gpu:0", "gpu:1"]
    with pytest.raises(UserError, match=r"mesh has 4 cores, but this machine has only 2 GPUs"):
        estimator.assign_devices(4)
