"""`run_switch.py distil`: a run of a student, from its teacher to its own checkpoints."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import quick_compilation
import students
import tensorflow.compat.v1 as tf
from tiny_run import VOCABULARY, TinyRun, copy_of, variables

from mtf_switch.distillation import cache_key
from mtf_switch.distillation.teacher import Teacher
from mtf_switch.errors import UserError
from mtf_switch.model_dirs import train_log

SAVE_OFTEN = {"utils.run.save_checkpoints_steps": "2"}


@pytest.fixture(scope="module")
def student(tiny: TinyRun, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple:
    """A student's model_dir at step 4 with checkpoints at 0, 2 and 4, and what was printed."""
    model_dir = tmp_path_factory.mktemp("student") / "run"
    outcome = students.distil(tiny, trained, model_dir, "--steps=4", params=SAVE_OFTEN)
    assert outcome.code == 0, outcome.err
    return model_dir, outcome.out


def test_a_student_starts_from_its_teacher_and_is_an_ordinary_model(
    tiny: TinyRun, trained: Path, student
) -> None:
    model_dir, out = student
    start, teacher = variables(model_dir, 0), variables(trained, 6)
    assert not any("teacher" in name or "Switch" in name for name in start)
    for name in ("shared/embedding", "decoder/block_000/layer_001/EncDecAttention/q"):
        np.testing.assert_array_equal(start[name], teacher[name])
    weights = {name for name in start if name != "global_step" and "_slot_" not in name}
    taken = sum(int(n) for n in re.findall(r" (\d+)  copied ", out))
    assert f"{taken} of {len(weights)} variables from {trained}/model.ckpt-6" in out
    # The feed-forward layers are new: two matrices in each stack.
    assert len(weights) - taken == 4
    outcome = tiny.command("eval", f"--model_dir={model_dir}", "--eval_batches=1")
    assert outcome.code == 0, outcome.err
    assert "step 4" in outcome.out


def test_the_log_and_tensorboard_have_the_teachers_part(student) -> None:
    logged = train_log.read(str(student[0]))
    of_teacher = [step.teacher_nats_per_token for step in logged]
    # A teacher of 6 steps is about as unsure as log V, and a student of 4 as well.
    assert of_teacher == pytest.approx([math.log(VOCABULARY)] * 4, rel=0.1)
    assert of_teacher != [step.nats_per_token for step in logged]
    (events,) = student[0].glob("events.out.tfevents.*")
    values = {
        value.tag: value.simple_value
        for event in tf.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    # The log has five decimals.
    assert values["teacher_nats_per_token"] == pytest.approx(of_teacher[-1], abs=1e-5)


def test_a_student_that_is_resumed_is_the_same(
    tiny: TinyRun, trained: Path, student, tmp_path: Path
) -> None:
    resumed = copy_of(student[0], tmp_path / "resumed")
    for file in resumed.glob("model.ckpt-4*"):
        file.unlink()
    outcome = students.distil(tiny, trained, resumed, "--steps=4", params=SAVE_OFTEN)
    assert outcome.code == 0, outcome.err
    assert "Initial weights" not in outcome.out
    wanted, found = variables(student[0], 4), variables(resumed, 4)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def distil_through_pjrt(tiny: TinyRun, teacher: Path, model_dir: Path, *flags: str):
    """Distils on one device for two steps."""
    flags = ("--runtime=pjrt", "--devices=1", "--steps=2", *flags)
    with quick_compilation.compile_quickly():
        outcome = students.distil(tiny, teacher, model_dir, *flags, params=SAVE_OFTEN)
    assert outcome.code == 0, outcome.err
    return outcome


def test_pjrt_trains_the_same_student(
    tiny: TinyRun, trained: Path, student, tmp_path: Path
) -> None:
    """With dropout. Its first loss needs the teacher, and its second one all gradients."""
    outcome = distil_through_pjrt(tiny, trained, tmp_path / "run")
    assert outcome.out.splitlines()[:-1] == student[1].splitlines()[:-1]
    logs = [train_log.read(str(run)) for run in (tmp_path / "run", student[0])]
    for ours, others in zip(*logs):
        # 1e-5: float32 sums in another order.
        assert ours.loss == pytest.approx(others.loss, rel=1e-5)
        assert ours.teacher_nats_per_token == pytest.approx(
            others.teacher_nats_per_token, rel=1e-5
        )
    assert [step.step for step in logs[0]] == [1, 2]
    wanted, found = variables(student[0], 2), variables(tmp_path / "run", 2)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        scale = np.abs(value).max()
        np.testing.assert_allclose(found[name], value, atol=1e-5 * scale, err_msg=name)


@pytest.fixture(scope="module")
def cached(tiny: TinyRun, trained: Path, student, tmp_path_factory) -> tuple[Path, Path, str]:
    """The run of `student` with a cache of all tokens: model_dir, cache, what was printed."""
    folder = tmp_path_factory.mktemp("cached")
    flags = (f"--cache_teacher={folder}/cache", "--teacher_top_k=9999", "--steps=4")
    outcome = students.distil(tiny, trained, folder / "run", *flags, params=SAVE_OFTEN)
    assert outcome.code == 0, outcome.err
    return folder / "run", folder / "cache", outcome.err


def test_a_cache_of_all_tokens_is_as_good_as_the_teacher(student, cached) -> None:
    model_dir, cache, err = cached
    assert f"{cache} has the teacher's probabilities of all tokens." in err
    wanted, found = variables(student[0], 4), variables(model_dir, 4)
    for name, value in wanted.items():
        # softmax(log_softmax(x)) is softmax(x) up to float32's rounding.
        np.testing.assert_allclose(found[name], value, rtol=1e-3, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_pjrt_reads_and_writes_a_cache(
    tiny: TinyRun, trained: Path, student, cached, tmp_path: Path
) -> None:
    wanted = variables(student[0], 2)
    for name, cache in (("reads", cached[1]), ("writes", tmp_path / "cache")):
        flags = (f"--cache_teacher={cache}", "--teacher_top_k=9999")
        distil_through_pjrt(tiny, trained, tmp_path / name, *flags)
        found = variables(tmp_path / name, 2)
        assert wanted.keys() == found.keys()
        for variable, value in wanted.items():
            # As in the test above.
            np.testing.assert_allclose(
                found[variable], value, rtol=1e-3, atol=1e-5, err_msg=variable
            )


@pytest.mark.slow
def test_further_students_do_not_run_the_teacher(
    tiny: TinyRun, trained: Path, cached, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(Teacher, "compute_logits", None)
    flags = (f"--cache_teacher={cached[1]}", "--teacher_top_k=9999", "--init=none", "--seed=5")
    for name in ("first", "again"):
        outcome = students.distil(tiny, trained, tmp_path / name, *flags, "--steps=4")
        assert outcome.code == 0, outcome.err
    outcome = students.distil(tiny, trained, tmp_path / "longer", *flags, "--steps=5")
    assert outcome.code == 1
    assert "for 4 steps, but the run has 5" in outcome.err
    first, again = (variables(tmp_path / name, 4) for name in ("first", "again"))
    for name, value in first.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


@pytest.mark.slow
def test_a_cache_of_few_tokens_says_what_it_keeps(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    flags = (f"--cache_teacher={tmp_path}/cache", "--teacher_top_k=8", "--steps=2")
    outcome = students.distil(tiny, trained, tmp_path / "run", *flags)
    assert outcome.code == 0, outcome.err
    assert re.search(r"the 8 most likely tokens .* have \d+\.\d\d% of the teach", outcome.err)


def test_another_cache_is_refused(tiny: TinyRun, trained: Path, cached, tmp_path: Path) -> None:
    of_two = ("--runtime=pjrt", "--num_processes=2", "--process_id=1")
    all_tokens = ["--teacher_top_k=9999"]
    info = json.loads((cached[1] / "cache.json").read_text())
    for name, content in (
        ("weights", {**info, "teacher_weights": "0"}),
        ("configuration", {**info, "teacher_configuration": "0"}),
        ("text", {**info, "text": {"text_files": {"/gone.txt": "0"}}}),
        ("other", {"a": 1}),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "cache.json").write_text(json.dumps(content))
    for folder, flags, message in (
        (cached[1], ["--teacher_top_k=3"], "has teacher_top_k 9999, but this run has 3"),
        (tmp_path / "weights", all_tokens, "is of other weights than"),
        (tmp_path / "configuration", all_tokens, "is of another configuration than the one"),
        (tmp_path / "text", all_tokens, "is of another text: /gone.txt is gone"),
        (
            tmp_path / "other",
            ["--teacher_top_k=3"],
            "is not a cache that --cache_teacher wrote",
        ),
        (tmp_path / "x", ["--dry_run"], "--dry_run does not write the cache"),
        (
            tmp_path / "x",
            [*of_two, "--coordinator_address=localhost:1"],
            "A single process writes the cache",
        ),
    ):
        outcome = students.distil(
            tiny, trained, tmp_path / "new", f"--cache_teacher={folder}", *flags, "--steps=4"
        )
        assert outcome.code == 1
        assert message in outcome.err
    assert not (tmp_path / "new").exists()


def test_another_run_in_the_folder_is_refused_before_the_teacher_computes(
    tiny: TinyRun, trained: Path, cached, tmp_path: Path
) -> None:
    flags = (f"--cache_teacher={tmp_path}/cache", "--steps=8", "--seed=5")
    outcome = students.distil(tiny, trained, cached[0], *flags, params=SAVE_OFTEN)
    assert outcome.code == 1
    assert "-seed.value = 0" in outcome.err
    assert not (tmp_path / "cache").exists()


def test_a_cache_is_for_the_batches_and_the_capacity_that_wrote_it(
    tiny: TinyRun, trained: Path, cached, monkeypatch
) -> None:
    for name, value in tiny.environment.items():
        monkeypatch.setenv(name, value)

    def open_cache(**params: str) -> None:
        given = {
            "distillation.cache": repr(str(cached[1])),
            "distillation.cache_top_k": "9999",
            **{name.replace("__", "."): value for name, value in params.items()},
        }
        students.make_objective(tiny, trained, given)

    # Students may differ in their seed, and read the batches of the first one.
    open_cache()
    open_cache(run_config__seed__value="5")
    for params, message in (
        ({"span_corruption__mean_span_length": "4.0"}, "it is masked, packed or ordered in"),
        (
            {"distillation__teacher_capacity": "'unlimited'"},
            "has teacher_capacity evaluation, but this run has unlimited: name a new",
        ),
    ):
        with pytest.raises(UserError, match=message):
            open_cache(**params)


def test_a_cache_of_an_earlier_version_is_still_read() -> None:
    """It does not say of which text, configuration and capacity it is."""
    now = {
        "teacher": "t",
        "teacher_capacity": "unlimited",
        "text": {"a": {"/b": "1"}},
        "seed": 1,
    }
    cache_key.check("folder", {"teacher": "t", "seed": 0}, now)


def test_a_student_with_all_steps_needs_no_tensorflow_to_say_so(
    tiny: TinyRun, trained: Path, student, monkeypatch
) -> None:
    monkeypatch.setattr(tf, "Graph", None)
    for teacher in (trained, f"{trained}/model.ckpt-6"):
        outcome = students.distil(tiny, teacher, student[0], "--steps=4", params=SAVE_OFTEN)
        assert outcome.code == 0, outcome.err
        assert "All its steps are done" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "params", "message"),
    [
        ((), {"utils.run.sequence_length": "{'inputs': 16, 'targets': 16}"}, "Pass the teach"),
        ((), {"utils.run.model_type": "'lm'"}, "choose a --student of the same type"),
        pytest.param(
            (),
            {"d_model": "24"},
            "[24, 16] in the student, and [16, 16] in the teacher",
            marks=pytest.mark.slow,  # see tests/distillation/initial_values_test.py
        ),
        ((), {"utils.run.init_checkpoint": "'x'"}, "pass --init=none for the checkpoint"),
        ((), {"distillation.soft": "1.5"}, "distillation.soft is 1.5, but it must be"),
        ((), {"distillation.temperature": "0"}, "temperature is 0, but it must be a finite"),
        ((), {"distillation.init": "'best'"}, "distillation.init is 'best', but it must be"),
        (("--vocabulary={vocabulary}",), {}, "vocabulary"),
        (("--train_file=x.tsv",), {}, "give only one of them"),
    ],
)
def test_mistakes_are_refused_in_one_sentence(
    tiny: TinyRun, trained: Path, text_vocabulary, tmp_path: Path, arguments, params, message
) -> None:
    given = [text.format(vocabulary=text_vocabulary) for text in arguments]
    outcome = students.distil(tiny, trained, tmp_path / "new", *given, params=params)
    assert outcome.code == 1, outcome.err
    assert message in outcome.err
    assert not (tmp_path / "new").exists() or not list((tmp_path / "new").glob("model.ckpt*"))


def test_own_examples_are_distilled_with_the_recipe_of_finetune(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    lines = ["inputs\ttargets", *(f"ba do {i}\tki" for i in range(20)), ""]
    (tmp_path / "own.tsv").write_text("\n".join(lines))
    arguments = [
        "distil",
        f"--teacher={trained}",
        f"--student={students.write_model(tiny)}",
        f"--train_file={tmp_path}/own.tsv",
        "--metric=accuracy",
        f"--model_dir={tmp_path}/new",
        "--print_config",
    ]
    outcome = tiny.command(*arguments, "--gin_file=runs/own_data.gin")
    assert outcome.code == 0, outcome.err
    for value, source in (
        ("run.learning_rate_schedule = 0.001", "gin/runs/finetune.gin"),
        ("run.keep_checkpoint_max = None", "gin/runs/finetune.gin"),
        # The student's own dropout would be that of pre-training.
        ("dropout_rate = 0.1", "gin/runs/finetune.gin"),
        ("run.train_steps = 1000", "gin/runs/own_data.gin"),
    ):
        assert re.search(rf"(?m)^{re.escape(value)} +# {source}", outcome.out), outcome.out


def test_a_folder_without_a_configuration_is_no_teacher(
    tiny: TinyRun, trained: Path, tmp_path: Path
) -> None:
    for message, kept in (
        ("does not contain a checkpoint", ()),
        ("no config.gin", ("model*",)),
    ):
        folder = tmp_path / str(len(kept))
        folder.mkdir()
        for pattern in kept:
            for file in trained.glob(pattern):
                (folder / file.name).write_bytes(file.read_bytes())
        outcome = students.distil(tiny, folder, tmp_path / "new")
        assert outcome.code == 1
        assert message in outcome.err


def test_train_does_not_continue_a_student(tiny: TinyRun, student) -> None:
    outcome = tiny.command("train", f"--model_dir={student[0]}", "--steps=9")
    assert outcome.code == 1
    assert "train a student with run_switch.py distil" in outcome.err
