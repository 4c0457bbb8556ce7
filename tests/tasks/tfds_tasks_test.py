"""The tasks on TFDS data: their exact text, their vocabulary, and whether their data is here."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import gin
import numpy as np
import pytest
import seqio
import t5.data
import tfds_examples
from golden_texts import GOLDEN_TEXTS
from tiny_run import TinyRun

import tasks
from mtf_switch.errors import UserError
from tasks import closed_book, entailment, multiple_choice, t5_tasks, tfds_data
from tasks.tfds_data import Readiness

LENGTHS = {"inputs": 64, "targets": 64}
ADDED = (
    "xsum",
    *entailment.ROUNDS,
    multiple_choice.WINOGRANDE,
    multiple_choice.ARC_EASY,
    multiple_choice.ARC_CHALLENGE,
    *closed_book.SIZES,
    "c4_v220_span_corruption_no_repeats",
)


@pytest.fixture
def registered(tfds_dir: Path, text_vocabulary: Path, small_closed_book: None):
    """All tasks, on the hand-written data and a vocabulary of it."""
    gin.bind_parameter("tfds_data.data_dir", str(tfds_dir))
    gin.bind_parameter("task_vocabulary.source", str(text_vocabulary))
    tasks.register()
    for name in GOLDEN_TEXTS:
        tfds_data.check_prepared(name)
    yield
    gin.clear_config()
    tasks.register()


def examples(name: str, split: str) -> list[dict]:
    task = seqio.TaskRegistry.get(name)
    return list(task.get_dataset(LENGTHS, split, shuffle=False).as_numpy_iterator())


@pytest.mark.parametrize("name", GOLDEN_TEXTS)
def test_a_task_has_exactly_the_text_of_its_paper(name: str, registered) -> None:
    for split, golden in GOLDEN_TEXTS[name].items():
        found = [
            (e["inputs_pretokenized"].decode(), e["targets_pretokenized"].decode())
            for e in examples(name, split)
        ]
        assert golden in found


@pytest.mark.parametrize("name", ["boolq", "cb"])
def test_ids_are_the_vocabularys_and_end_with_its_end_token(
    name: str, registered, text_vocabulary: Path
) -> None:
    vocabulary = seqio.SentencePieceVocabulary(str(text_vocabulary), extra_ids=100)
    for example in examples(f"super_glue_{name}_v102", "train"):
        for feature in ("inputs", "targets"):
            text = example[f"{feature}_pretokenized"].decode()
            assert example[feature].tolist() == [*vocabulary.encode(text), 1][:64]


def test_every_task_of_the_papers_tables_has_a_golden_example() -> None:
    mixtures = [t5_tasks.GLUE, t5_tasks.SUPER_GLUE, entailment.MIXTURE, closed_book.MIXTURE]
    names = {t.name for m in mixtures for t in seqio.get_subtasks(seqio.get_mixture_or_task(m))}
    names |= {*ADDED, t5_tasks.SQUAD, t5_tasks.CNN_DAILYMAIL}
    # Span corruption is random; tests/tasks/repeats_test.py has what is not.
    assert names - set(GOLDEN_TEXTS) == {"c4_v220_span_corruption_no_repeats"}


def test_wsc_trains_on_right_referents_only_and_scores_both(registered) -> None:
    trained = examples("super_glue_wsc_v102_simple_train", "train")
    assert [e["targets_pretokenized"] for e in trained] == [b"Pete"]
    scored = examples("super_glue_wsc_v102_simple_eval", "validation")
    by_referent = {e["targets_pretokenized"]: int(e["label"]) for e in scored}
    assert by_referent == {b"Pete": 1, b"Mark": 0}
    task = seqio.TaskRegistry.get("super_glue_wsc_v102_simple_eval")
    for example in scored:
        says_pete = task.postprocess_fn("Pete", example=example, is_target=False)
        assert says_pete == (example["targets_pretokenized"] == b"Pete")


def test_closed_book_answers_may_be_any_of_those_given(registered) -> None:
    task = seqio.TaskRegistry.get("natural_questions_open")
    (example,) = examples(task.name, "validation")
    answers = task.postprocess_fn("Homer", example=example, is_target=True)
    assert answers == ["Homer", "a poet"]
    (metric,) = task.predict_metric_fns
    assert metric([answers], ["poet"]) == {"em": 100.0, "f1": 100.0}  # articles do not count


def test_the_splits_are_those_of_the_papers(registered) -> None:
    winogrande = seqio.TaskRegistry.get("winogrande_xl")
    assert winogrande.source.tfds_dataset._split_map["train"] == "train_xl"
    assert seqio.TaskRegistry.get("xsum").num_input_examples("train") == 1
    counts = {
        split: seqio.TaskRegistry.get("trivia_qa_open").num_input_examples(split)
        for split in ("train", "validation", "test")
    }
    assert counts == {"train": 2, "validation": 1, "test": 1}


def test_without_a_word_every_task_has_t5s_vocabulary_and_nothing_is_read() -> None:
    gin.clear_config()
    tasks.register()
    default = t5.data.get_default_vocabulary()
    for name in (*ADDED, "super_glue_boolq_v102", t5_tasks.SQUAD):
        found = seqio.TaskRegistry.get(name).output_features["targets"].vocabulary
        assert found._sentencepiece_model_file == default._sentencepiece_model_file
        assert (found.extra_ids, found._model) == (100, None)


def test_a_vocabulary_can_be_that_of_the_embedded_text() -> None:
    gin.bind_parameter("task_vocabulary.source", "embedded_text")
    tasks.register()
    vocabulary = seqio.TaskRegistry.get("xsum").output_features["inputs"].vocabulary
    assert vocabulary.corpus.name == "embedded_text"
    assert seqio.TaskRegistry.get("glue_cola_v002").output_features["inputs"].vocabulary == (
        vocabulary
    )


# ---- readiness


def test_glue_in_the_version_that_t5_names_is_read_if_it_is_there(
    tfds_dir: Path, tmp_path: Path
) -> None:
    """The pinned TFDS can make 2.0.0 only."""
    old = tmp_path / "glue" / "cola" / "1.0.0"
    shutil.copytree(tfds_dir / "glue" / "cola" / "2.0.0", old)
    info = json.loads((old / "dataset_info.json").read_text())
    (old / "dataset_info.json").write_text(json.dumps({**info, "version": "1.0.0"}))
    task = seqio.TaskRegistry.get("glue_cola_v002")
    for folder, version in ((tmp_path, "1.0.0"), (tfds_dir, "2.0.0"), (tmp_path, "1.0.0")):
        gin.clear_config()
        gin.bind_parameter("tfds_data.data_dir", str(folder))
        tasks.register()
        assert tfds_data.resolve_dataset_name(task) == f"glue/cola:{version}"
        tfds_data.check_prepared("glue_cola_v002")


def test_data_that_is_not_there_is_told_how_to_get(tmp_path: Path) -> None:
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    with pytest.raises(UserError) as raised:
        tfds_data.check_prepared("glue_v002_proportional")
    assert re.fullmatch(
        rf"glue/\w+:2.0.0 is not prepared in {tmp_path}\. Prepare it: run_switch.py prepare "
        rf"--task=glue_v002_proportional --data_dir={tmp_path}",
        str(raised.value),
    )


def test_a_step_by_hand_and_a_beam_job_are_said(tmp_path: Path) -> None:
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    with pytest.raises(UserError, match="xsum-extracts-from-downloads"):
        tfds_data.check_prepared("xsum")
    with pytest.raises(UserError, match="A Beam job on a cluster makes it"):
        tfds_data.check_prepared("c4_v220_span_corruption")


@pytest.mark.parametrize("lost", ["dataset_info.json", "xsum-train.tfrecord-00000-of-00001"])
def test_half_prepared_data_is_told_apart(tfds_dir: Path, tmp_path: Path, lost: str) -> None:
    shutil.copytree(tfds_dir / "xsum", tmp_path / "xsum")
    (tmp_path / "xsum" / "1.1.0" / lost).unlink()
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    assert tfds_data.inspect_dataset("xsum:1.1.0").readiness is Readiness.INCOMPLETE
    with pytest.raises(UserError) as raised:
        tfds_data.check_prepared("xsum")
    assert "xsum:1.1.0 is half prepared" in str(raised.value)
    assert lost in str(raised.value)
    assert f"Remove {tmp_path}/xsum/1.1.0, then prepare it: run_switch.py" in str(raised.value)
    with pytest.raises(UserError, match="Remove "):
        tfds_data.prepare_datasets("xsum")


def test_a_data_set_that_this_tfds_does_not_have_is_said(tmp_path: Path) -> None:
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    with pytest.raises(UserError, match=r"does not have c4/en\.realnewslike:2\.2\.0"):
        tfds_data.check_prepared("c4_realnewslike_v020_unsupervised")


def test_prepared_before_and_after_seqio_looked(tfds_dir: Path, tmp_path: Path) -> None:
    """seqio keeps the builder that it made when there was nothing."""
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    task = seqio.TaskRegistry.get("xsum")
    assert not task.source.tfds_dataset.info.splits
    tfds_examples.write_dataset("xsum:1.1.0", tmp_path)
    tfds_data.check_prepared("xsum")
    assert task.num_input_examples("train") == 1


# ---- commands


def test_tasks_lists_sizes_metrics_splits_and_readiness(
    tiny: TinyRun, tfds_dir: Path, small_closed_book: None
) -> None:
    outcome = tiny.command("tasks", "*", f"--data_dir={tfds_dir}")
    assert outcome.code == 0, outcome.err
    lines = {line.split()[0]: line for line in outcome.out.splitlines()}
    assert lines["xsum"].split()[1:] == [
        *["yes", "rouge"],
        *["test", "1,", "train", "1,", "validation", "1"],
    ]
    assert "matthews_corrcoef" in lines["glue_cola_v002"]
    assert "no: prepare it" in lines["wmt14_ende_v003"]
    assert "no: not in this TFDS" in lines["c4_realnewslike_v020_unsupervised"]
    assert "no: 0 of 107 are" in lines["mc4"]
    assert "mixture of 3" in lines["embedded_downstream"]
    names = seqio.TaskRegistry.names() | seqio.MixtureRegistry.names()
    assert names <= set(lines)


def test_published_sizes_stand_where_nothing_is_prepared(tiny: TinyRun, tmp_path: Path) -> None:
    outcome = tiny.command("tasks", "winogrande*", f"--data_dir={tmp_path}")
    assert "no: prepare it" in outcome.out
    assert "train 40,398" in outcome.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("tasks", "--data_dir=/nowhere/at/all"), "There is no folder /nowhere/at/all"),
        (("tasks", "*supergleu*"), "No task or mixture matches '*supergleu*'"),
        (("prepare", "--task=xsun"), "The nearest names are: xsum"),
    ],
)
def test_mistakes_get_one_message(tiny: TinyRun, arguments: tuple, message: str) -> None:
    outcome = tiny.command(*arguments)
    assert (outcome.code, outcome.out) == (1, "")
    assert message in outcome.err
    assert "Traceback" not in outcome.err


def test_prepare_makes_what_is_missing(tiny: TinyRun, tmp_path: Path, monkeypatch) -> None:
    made = []

    def write(name: str) -> None:
        made.append(name)
        tfds_examples.write_dataset(name, tmp_path / "new")

    monkeypatch.setattr(tfds_data, "_download_and_prepare", write)
    arguments = ("prepare", "--task=anli", f"--data_dir={tmp_path / 'new'}")
    outcome = tiny.command(*arguments)
    assert outcome.code == 0, outcome.err
    assert made == ["anli/r1:0.1.0", "anli/r2:0.1.0", "anli/r3:0.1.0"]
    again = tiny.command(*arguments)
    assert (again.code, again.out) == (0, "anli is ready.\n")
    assert len(made) == 3


def test_a_download_that_fails_is_explained(tmp_path: Path, monkeypatch) -> None:
    import tensorflow_datasets as tfds

    def no_network(self, **_):
        raise ConnectionError("Name or service not known\nmore")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    gin.bind_parameter("tfds_data.data_dir", str(tmp_path))
    tasks.register()
    with pytest.raises(UserError) as raised:
        tfds_data.prepare_datasets("web_questions_open")
    assert str(raised.value) == (
        f"TFDS could not prepare web_questions:1.0.0 in {tmp_path} (ConnectionError: Name or "
        "service not known)."
    )


def test_examples_of_a_mixture_are_drawn_by_size() -> None:
    tasks.register()
    mixture = seqio.MixtureRegistry.get("anli")
    rates = [mixture.get_rate(task) for task in mixture.tasks]
    np.testing.assert_allclose(rates, [16_946, 45_460, 100_459])
