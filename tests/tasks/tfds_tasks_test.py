"""The tasks on TFDS data: their exact text, their splits and their vocabulary."""

from __future__ import annotations

from pathlib import Path

import gin
import pytest
import seqio
import tfds_examples
from golden_texts import ADDED_TASKS, GOLDEN_TEXTS

import tasks
from mtf_switch.runs import data
from tasks import closed_book, entailment, t5_tasks, tfds_data

LENGTHS = {"inputs": 64, "targets": 64}


@pytest.fixture(scope="module", autouse=True)
def registered(tfds_dir: Path, text_vocabulary: Path):
    """All tasks, on the hand-written data and a vocabulary of it."""
    gin.bind_parameter("tfds_data.data_dir", str(tfds_dir))
    gin.bind_parameter("task_vocabulary.source", str(text_vocabulary))
    with tfds_examples.divide_closed_book():
        tasks.register()
    for name in GOLDEN_TEXTS:
        tfds_data.check_prepared(name)
    yield
    gin.clear_config()
    tasks.register()


def examples(name: str, split: str) -> list[dict]:
    """The examples, read in the way in which the commands read them."""
    task = seqio.TaskRegistry.get(name)
    dataset = data.build_quickly(lambda: task.get_dataset(LENGTHS, split, shuffle=False))
    return list(dataset.as_numpy_iterator())


@pytest.mark.parametrize("name", GOLDEN_TEXTS)
def test_a_task_has_exactly_the_text_of_its_paper(name: str) -> None:
    for split, golden in GOLDEN_TEXTS[name].items():
        found = [
            (e["inputs_pretokenized"].decode(), e["targets_pretokenized"].decode())
            for e in examples(name, split)
        ]
        assert golden in found


@pytest.mark.parametrize("name", ["boolq", "cb"])
def test_ids_are_the_vocabularys_and_end_with_its_end_token(
    name: str, text_vocabulary: Path
) -> None:
    vocabulary = seqio.SentencePieceVocabulary(str(text_vocabulary), extra_ids=100)
    for example in examples(f"super_glue_{name}_v102", "train"):
        for feature in ("inputs", "targets"):
            text = example[f"{feature}_pretokenized"].decode()
            assert example[feature].tolist() == [*vocabulary.encode(text), 1][:64]


def test_every_task_of_the_papers_tables_has_a_golden_example() -> None:
    mixtures = [t5_tasks.GLUE, t5_tasks.SUPER_GLUE, entailment.MIXTURE, closed_book.MIXTURE]
    names = {t.name for m in mixtures for t in seqio.get_subtasks(seqio.get_mixture_or_task(m))}
    names |= {*ADDED_TASKS, t5_tasks.SQUAD, t5_tasks.CNN_DAILYMAIL}
    # Span corruption is random; tests/tasks/repeats_test.py tests the other steps.
    assert names - set(GOLDEN_TEXTS) == {"c4_v220_span_corruption_no_repeats"}


def test_wsc_trains_on_right_referents_only_and_scores_both() -> None:
    trained = examples("super_glue_wsc_v102_simple_train", "train")
    assert [e["targets_pretokenized"] for e in trained] == [b"Pete"]
    scored = examples("super_glue_wsc_v102_simple_eval", "validation")
    by_referent = {e["targets_pretokenized"]: int(e["label"]) for e in scored}
    assert by_referent == {b"Pete": 1, b"Mark": 0}
    task = seqio.TaskRegistry.get("super_glue_wsc_v102_simple_eval")
    for example in scored:
        says_pete = task.postprocess_fn("Pete", example=example, is_target=False)
        assert says_pete == (example["targets_pretokenized"] == b"Pete")


def test_closed_book_answers_may_be_any_of_those_given() -> None:
    task = seqio.TaskRegistry.get("natural_questions_open")
    (example,) = examples(task.name, "validation")
    answers = task.postprocess_fn("Homer", example=example, is_target=True)
    assert answers == ["Homer", "a poet"]
    (metric,) = task.predict_metric_fns
    assert metric([answers], ["poet"]) == {"em": 100.0, "f1": 100.0}  # articles do not count


def test_the_splits_are_those_of_the_papers() -> None:
    winogrande = seqio.TaskRegistry.get("winogrande_xl")
    assert winogrande.source.tfds_dataset._split_map["train"] == "train_xl"
    assert seqio.TaskRegistry.get("xsum").num_input_examples("train") == 1
    counts = {
        split: seqio.TaskRegistry.get("trivia_qa_open").num_input_examples(split)
        for split in ("train", "validation", "test")
    }
    assert counts == {"train": 2, "validation": 1, "test": 1}
