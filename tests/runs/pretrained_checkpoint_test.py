"""`run_switch.py finetune`: from a checkpoint of the project, and of T5's own program."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import pytest
import t5_reference
from tiny_run import TinyRun, contents, copy_of, variables

from mtf_switch.config import bound_settings, gin_config, saved_config
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import initial_weights
from mtf_switch.runs.pretrained_checkpoint import PretrainedCheckpoint

SUPER_GLUE = "super_glue_v102_proportional"


def weights(model_dir: Path, step: int) -> dict[str, np.ndarray]:
    found = variables(model_dir, step)
    return {name: value for name, value in found.items() if initial_weights.weights_only(name)}


def test_the_papers_recipe_is_on_top_of_the_checkpoints_model(finetuned: Path) -> None:
    config = (finetuned / "config.gin").read_text()
    for line in (
        "d_model = 16",  # the checkpoint's
        "num_experts = 4",
        "dropout_rate = 0.1",  # the recipe's
        "SwitchFFN.expert_dropout_rate = 0.4",
        "run.learning_rate_schedule = 0.001",
        "AdafactorOptimizer.beta1 = 0.0",
        f"MIXTURE_NAME = '{SUPER_GLUE}'",
    ):
        assert f"\n{line}\n" in f"\n{config}"


def test_the_vocabulary_is_the_one_that_the_checkpoints_folder_keeps(
    finetuned: Path, trained: Path
) -> None:
    kept = (trained / "vocabulary.model").read_bytes()
    assert (finetuned / "vocabulary.model").read_bytes() == kept
    found = [saved_config.read_values(str(d), "run_vocabulary") for d in (finetuned, trained)]
    assert found[0] == found[1]
    assert found[0]["sentinels"] == 100
    assert not saved_config.read_values(str(finetuned), "task_vocabulary")


def test_the_recipe_is_the_papers() -> None:
    gin_config.parse(
        ["models/switch_base.gin", "runs/finetune.gin"], ["MIXTURE_NAME = 'a_task'"]
    )
    settings = bound_settings.read_settings()
    assert settings.batch_size * settings.sequence_length["inputs"] == 2**20
    assert settings.train_steps == 16_000
    assert settings.save_checkpoints_steps == 200
    assert settings.keep_checkpoint_max is None
    assert settings.learning_rate_schedule == 0.001


@pytest.mark.parametrize(
    ("file", "dropout", "expert_dropout"),
    [
        ("t5_dropout_0.1", 0.1, None),
        ("switch_dropout_0.1", 0.1, 0.1),
        ("switch_dropout_0.2", 0.2, 0.2),
        ("switch_dropout_0.3", 0.3, 0.3),
        ("switch_dropout_0.1_expert_0.4", 0.1, 0.4),
    ],
)
def test_the_rows_of_table_4(file: str, dropout: float, expert_dropout: float | None) -> None:
    import gin

    model = "models/t5_tiny.gin" if expert_dropout is None else "models/switch_tiny.gin"
    gin_config.parse(
        [model, "runs/finetune.gin", f"paper/table_4/{file}.gin"], ["MIXTURE_NAME = 'a_task'"]
    )
    assert gin.query_parameter("%dropout_rate") == dropout
    if expert_dropout is not None:
        assert gin.query_parameter("SwitchFFN.expert_dropout_rate") == expert_dropout


def test_a_folder_of_copied_files_needs_no_list_of_checkpoints(
    trained: Path, tmp_path: Path
) -> None:
    model_dir = copy_of(trained, tmp_path / "copy")
    (model_dir / "checkpoint").unlink()
    found = PretrainedCheckpoint.from_path(str(model_dir))
    assert found.path == str(model_dir / "model.ckpt-6")
    assert "d_model = 16" in found.config.text


def test_weights_come_from_the_checkpoint_and_steps_are_counted_from_0(
    finetuned: Path, trained: Path
) -> None:
    start, source = variables(finetuned, 0), weights(trained, 6)
    assert start["global_step"] == 0
    for name, value in source.items():
        np.testing.assert_array_equal(start[name], value, err_msg=name)
    slots = [name for name in start if "_slot_" in name]
    assert slots
    assert not any(start[name].any() for name in slots)
    after = weights(finetuned, 4)
    assert any((after[name] != value).any() for name, value in source.items())


def test_the_same_command_again_changes_nothing(
    finetuned: Path, finetune, trained: Path
) -> None:
    before = contents(finetuned)
    outcome = finetune(trained, finetuned)
    assert outcome.code == 0, outcome.err
    assert contents(finetuned) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gin_param=d_model = 32"], "16] in the checkpoint and"),
        (["--task=super_glu_v102_proportional"], "names are: super_glue_v102_proportional"),
        (["--data_dir=/nowhere"], "There is no folder /nowhere"),
    ],
)
def test_what_does_not_fit_the_checkpoint_is_refused(
    finetune, trained: Path, tmp_path: Path, arguments: list[str], message: str
) -> None:
    outcome = finetune(trained, tmp_path / "run", *arguments)
    assert outcome.code == 1
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_another_vocabulary_is_refused_and_both_are_shown(
    finetune, trained: Path, tmp_path: Path, text_vocabulary: Path
) -> None:
    outcome = finetune(trained, tmp_path / "run", f"--vocabulary={text_vocabulary}")
    assert outcome.code == 1
    assert f"(--vocabulary) = '{text_vocabulary}' has another vocabulary" in outcome.err
    for path, size in ((text_vocabulary, 356), (trained / "vocabulary.model", 400)):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        assert f"(SHA-256 {digest[:16]}, {size} ids with 100 sentinels)" in outcome.err
    assert not (tmp_path / "run").exists()


def test_data_that_is_not_prepared_is_reported_before_anything_is_built(
    finetune, trained: Path, tmp_path: Path
) -> None:
    (tmp_path / "tfds").mkdir()
    outcome = finetune(trained, tmp_path / "run", f"--data_dir={tmp_path / 'tfds'}")
    assert outcome.code == 1
    assert f"run_switch.py prepare --task={SUPER_GLUE} --data_dir={tmp_path}" in outcome.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kind", ["a file that is not there", "an empty folder"])
def test_a_checkpoint_that_is_not_there(kind: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    path = tmp_path / ("empty" if "folder" in kind else "model.ckpt-7")
    with pytest.raises(
        UserError, match=r"does not contain a checkpoint|There is no checkpoint"
    ):
        PretrainedCheckpoint.from_path(str(path))


def test_a_checkpoint_without_a_configuration_needs_a_named_model(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    for file in trained.glob("model.ckpt-6*"):
        shutil.copy(file, tmp_path)
    outcome = tiny.command(
        "finetune",
        "--task=xsum",
        f"--init_checkpoint={tmp_path / 'model.ckpt-6'}",
        f"--model_dir={tmp_path / 'run'}",
    )
    assert outcome.code == 1
    assert "no config.gin" in outcome.err
    assert "--gin_file=models/t5_base.gin" in outcome.err


# ---- T5's own checkpoints


@pytest.fixture(scope="module")
def t5_checkpoint(text_vocabulary: Path, tmp_path_factory) -> Path:
    """A model_dir that T5's program made with its own gin files."""
    model_dir = tmp_path_factory.mktemp("t5") / "small"
    t5_reference.train(model_dir, text_vocabulary)
    return model_dir


@pytest.mark.slow
def test_a_checkpoint_of_t5s_own_program_is_fine_tuned(
    tiny: TinyRun, t5_checkpoint: Path, text_vocabulary: Path, tfds_dir: Path, tmp_path: Path
) -> None:
    """Its model is read from its operative_config.gin; every weight has its place and value.

    T5's masters are bfloat16, which float32 holds exactly.
    """
    start = t5_checkpoint / f"model.ckpt-{t5_reference.STEPS}"
    outcome = tiny.command(
        "finetune",
        "--task=anli_r1",
        f"--init_checkpoint={start}",
        f"--model_dir={tmp_path / 'run'}",
        f"--data_dir={tfds_dir}",
        f"--vocabulary={text_vocabulary}",
        "--steps=2",
        "--gin_param=utils.run.sequence_length = {'inputs': 32, 'targets': 16}",
        "--gin_param=utils.run.batch_size = 4",
    )
    assert outcome.code == 0, outcome.err
    theirs = weights(t5_checkpoint, t5_reference.STEPS)
    ours = weights(tmp_path / "run", 0)
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value.astype(np.float32), err_msg=name)


@pytest.mark.slow
def test_the_projects_dense_models_have_t5s_names(t5_checkpoint: Path, tmp_path: Path) -> None:
    """The checkpoint to compare with was made from T5 1.0's gin file in the wheel."""
    gin_config.parse(
        ["models/t5_tiny.gin"],
        [f"{name} = {value}" for name, value in t5_reference.SIZES.items()]
        + [
            "MIXTURE_NAME = 'a_task'",
            "utils.run.batch_size = 4",
            "utils.run.sequence_length = {'inputs': 16, 'targets': 16}",
        ],
    )
    import mesh_tensorflow as mtf
    import tensorflow.compat.v1 as tf
    from tiny_run import run_model

    names = {}
    original = tf.get_variable

    class Vocabulary:
        vocab_size = 356

    ids = {n: np.ones([4, 16], np.int32) for n in ("inputs", "targets")}
    with pytest.MonkeyPatch.context() as patch:

        def get_variable(name, shape=None, **arguments):
            variable = original(name, shape, **arguments)
            names[variable.op.name] = variable.shape.as_list()
            return variable

        patch.setattr(mtf.ops.tf, "get_variable", get_variable)
        run_model(None, bound_settings.read_settings(), Vocabulary(), [ids])
    theirs = {n: list(v.shape) for n, v in weights(t5_checkpoint, t5_reference.STEPS).items()}
    assert names == theirs
