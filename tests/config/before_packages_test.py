"""Files of users from before modules moved into packages still work.

tests/data/before_packages/README.md describes how the data were made.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from pathlib import Path
from unittest import mock

import gin
import mesh_tensorflow as mtf
import pytest
from tiny_run import variables

from mtf_switch.config import gin_config
from mtf_switch.model import attention_order, softmax_kernels
from mtf_switch.model.mesh_impls import SeededPlacementMeshImpl
from mtf_switch.model_dirs import train_log

DATA = Path(__file__).parents[1] / "data" / "before_packages"
EXPECTED = json.loads((DATA / "expected.json").read_text())
# Float32 that is rounded differently, by another processor or in another order of sums, six
# steps of training apart.
ROUNDING = 1e-4


def has_avx512() -> bool:
    """Whether this processor rounds as the one that made the data."""
    info = Path("/proc/cpuinfo")
    return info.exists() and "avx512f" in info.read_text()


@pytest.fixture(scope="module")
def resumed(tiny, tmp_path_factory):
    """The old model_dir, evaluated at step 3 and then trained on to step 6."""
    return resume(tiny, tmp_path_factory.mktemp("old"))


@pytest.fixture
def resumed_with_the_products_of_then(tiny, tmp_path):
    """The same with Mesh TensorFlow's einsums, attention and softmax, as in that version.

    Products of matrices and of their transposes round differently.
    """
    with contextlib.ExitStack() as stack:
        einsum = mtf.MeshImpl.einsum
        stack.enter_context(mock.patch.object(SeededPlacementMeshImpl, "einsum", einsum))
        stack.enter_context(mock.patch.object(attention_order, "put_heads_first"))
        stack.enter_context(mock.patch.object(softmax_kernels, "use"))
        return resume(tiny, tmp_path)


def resume(tiny, folder):
    model_dir = Path(shutil.copytree(DATA / "model_dir", folder / "run"))
    config = model_dir / "config.gin"
    corpus = repr(str(tiny.corpus))
    config.write_text(config.read_text().replace("'corpus.txt'", corpus))
    evaluated = tiny.command("eval", f"--model_dir={model_dir}")
    assert evaluated.code == 0, evaluated.err
    trained = tiny.command(
        "train",
        f"--gin_file={DATA / 'tiny.gin'}",
        f"--corpus={tiny.corpus}",
        f"--model_dir={model_dir}",
        "--steps=6",
    )
    assert trained.code == 0, trained.err
    for outcome in (evaluated, trained):
        # It does not keep a vocabulary, so that of its task is used, with a message.
        assert f"{model_dir} does not keep the vocabulary" in outcome.err
        assert "vocabulary_300.model (SHA-256 " in outcome.err
    assert not (model_dir / "vocabulary.model").exists()
    return model_dir


def test_the_corpus_is_the_one_of_the_data(tiny):
    digest = hashlib.sha256(tiny.corpus.read_bytes()).hexdigest()
    assert digest == EXPECTED["sha256 of the corpus"]


def test_an_old_model_dir_is_evaluated_as_before(resumed):
    found = json.loads((resumed / "eval.json").read_text())
    for name, value in EXPECTED["evaluation at step 3"].items():
        assert _flat(found[name]) == pytest.approx(_flat(value), rel=ROUNDING), name


def test_an_old_model_dir_resumes_as_before(resumed):
    steps = train_log.read(str(resumed))
    assert [step.step for step in steps] == [1, 2, 3, 4, 5, 6]
    losses = EXPECTED["losses of steps 1 to 6"]
    assert [s.loss for s in steps] == pytest.approx(losses, rel=ROUNDING)


@pytest.mark.slow
@pytest.mark.skipif(not has_avx512(), reason="another processor rounds differently")
def test_an_old_model_dir_resumes_bit_for_bit(resumed_with_the_products_of_then):
    resumed = resumed_with_the_products_of_then
    found = {
        name: hashlib.sha256(value.tobytes()).hexdigest()[:16]
        for name, value in variables(resumed, 6).items()
    }
    assert found == EXPECTED["sha256 of variables at step 6"]
    losses = [step.loss for step in train_log.read(str(resumed))]
    assert losses == EXPECTED["losses of steps 1 to 6"]


def test_an_old_configuration_is_kept_as_it_was(resumed):
    """A call that continues an old model_dir does not rewrite its configuration."""
    assert "import mtf_switch.capacity as mtf_switch2" in (resumed / "config.gin").read_text()


def old_names():
    """Yields (name, parameters) for the last part, last two parts, ... that are unambiguous."""
    lines = (DATA / "gin_names.txt").read_text().splitlines()
    parameters = dict(line.split(":") for line in lines)
    for name, of_name in parameters.items():
        if name.startswith("gin."):
            continue
        parts = name.split(".")
        for start in range(len(parts)):
            ending = ".".join(parts[start:])
            if sum(f".{other}".endswith(f".{ending}") for other in parameters) == 1:
                yield ending, of_name.split()


def test_every_old_gin_name_can_be_bound_and_referred_to(tmp_path):
    bindings = []
    for name, parameters in old_names():
        bindings += [f"{name}.{parameter} = None" for parameter in parameters]
        bindings += [f"utils.run.optimizer = @{name}"]
    assert len(bindings) > 2000
    for binding in (
        "ExpertCapacity.group_size = None",
        "capacity.ExpertCapacity.group_size = None",
        "mtf_switch.capacity.ExpertCapacity.group_size = None",
        "run_config.seed.value = None",
        "model.pairs_of_blocks.num_layers = None",
        "utils.run.optimizer = @init_checkpoint.weights_only",
    ):
        assert binding in bindings
    (tmp_path / "all.gin").write_text("\n".join(bindings))
    gin_config.parse([str(tmp_path / "all.gin")], [])
    assert gin.query_parameter("ExpertCapacity.group_size") is None


def _flat(value) -> list[float]:
    """The numbers of nested dictionaries and lists, in order."""
    if isinstance(value, dict):
        value = [value[key] for key in sorted(value)]
    if isinstance(value, list):
        return [number for element in value for number in _flat(element)]
    return [value]
