"""The vocabulary with which a command reads text."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import seqio
from tiny_run import TinyRun, copy_of, made_up_text

from mtf_switch.config import gin_config, saved_config
from mtf_switch.errors import UserError
from mtf_switch.runs import run_vocabulary
from tasks import pretraining
from tasks.text_corpus import TextCorpus
from tasks.text_vocabulary import TextVocabulary

MODEL = ["models/switch_tiny.gin"]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of prepared text."""
    monkeypatch.setenv("MTF_SWITCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def other_text(tmp_path: Path) -> Path:
    path = tmp_path / "other.txt"
    path.write_text(made_up_text(105_000, seed=3))
    return path


@pytest.fixture
def task_of_others(text_vocabulary: Path):
    """A task that other code registers, with its own vocabulary."""
    corpus = TextCorpus("nowhere", files=("/nowhere.txt",))
    vocabulary = seqio.SentencePieceVocabulary(str(text_vocabulary), extra_ids=100)
    yield pretraining.add_corpus_task("task_of_others", corpus, vocabulary)
    seqio.TaskRegistry.remove("task_of_others")


def test_other_text_is_read_with_the_vocabulary_of_the_run(
    trained: Path, cache: Path, other_text: Path
) -> None:
    saved_config.load(str(trained), [], [f"text_files.files = '{other_text}'"])
    chosen = run_vocabulary.choose(str(trained), "text_files")
    inputs, targets = chosen.vocabulary
    assert inputs is targets is chosen.for_all_tasks
    assert inputs.sentencepiece_model_file == str(trained / "vocabulary.model")
    task = seqio.get_mixture_or_task("text_files")
    assert task.output_features["targets"].vocabulary is inputs
    # All other tasks have it, too.
    for name in ("super_glue_boolq_v102", "mc4", "embedded_package"):
        features = seqio.get_mixture_or_task(name).output_features
        assert features["inputs"].vocabulary is inputs
    assert list(cache.glob("*/train.tfrecord"))
    assert not list(cache.glob("*/*.model"))


def test_a_task_that_insists_on_another_vocabulary_is_refused(
    trained: Path, text_vocabulary: Path, task_of_others: seqio.Task, monkeypatch
) -> None:
    import tasks

    monkeypatch.setattr(tasks, "prepare_text", lambda name: None)
    saved_config.load(str(trained))
    with pytest.raises(UserError) as caught:
        run_vocabulary.choose(str(trained), task_of_others.name)
    kept, other = (
        str(run_vocabulary.identify(vocabulary))
        for vocabulary in (
            TextVocabulary(str(trained / "vocabulary.model"), 100),
            task_of_others.output_features["inputs"].vocabulary,
        )
    )
    assert str(caught.value) == (
        f"Task 'task_of_others' has another vocabulary ({other}), but the model reads text with "
        f"{trained}/vocabulary.model ({kept}). Choose another task, or a model with the "
        "vocabulary of this one."
    )


def test_a_task_that_insists_on_the_same_content_is_accepted(
    trained: Path, tmp_path: Path, monkeypatch
) -> None:
    import tasks

    monkeypatch.setattr(tasks, "prepare_text", lambda name: None)
    copy = shutil.copy(trained / "vocabulary.model", tmp_path / "copy.model")
    corpus = TextCorpus("nowhere", files=("/nowhere.txt",))
    vocabulary = seqio.SentencePieceVocabulary(str(copy), extra_ids=100)
    pretraining.add_corpus_task("same", corpus, vocabulary)
    try:
        saved_config.load(str(trained))
        chosen = run_vocabulary.choose(str(trained), "same")
        assert chosen.vocabulary[0].vocab_size == 400
    finally:
        seqio.TaskRegistry.remove("same")


@pytest.mark.parametrize("sentinels", [None, 100, 99])
def test_the_same_bytes_with_another_number_of_sentinels_are_another_vocabulary(
    trained: Path, tmp_path: Path, sentinels: int | None
) -> None:
    copy = shutil.copy(trained / "vocabulary.model", tmp_path / "copy.model")
    params = [f"task_vocabulary.source = '{copy}'"]
    params += [] if sentinels is None else [f"task_vocabulary.sentinels = {sentinels}"]
    saved_config.load(str(trained), [], params)
    if sentinels == 99:
        with pytest.raises(UserError, match=r"399 ids with 99 sentinels.*400 ids with 100"):
            run_vocabulary.choose(str(trained), "text_files", reads_data=False)
    else:
        run_vocabulary.choose(str(trained), "text_files", reads_data=False)


@pytest.fixture
def without_vocabulary(trained: Path, tmp_path: Path) -> Path:
    """A model_dir without a kept vocabulary, such as some converted ones."""
    model_dir = copy_of(trained, tmp_path / "bare")
    config = model_dir / "config.gin"
    lines = config.read_text().splitlines(keepends=True)
    config.write_text("".join(line for line in lines if "run_vocabulary" not in line))
    (model_dir / "vocabulary.model").unlink()
    return model_dir


def test_a_model_that_keeps_none_takes_the_one_that_is_given(
    without_vocabulary: Path, text_vocabulary: Path, cache: Path, capsys
) -> None:
    param = f"task_vocabulary.source = '{text_vocabulary}'"
    saved_config.load(str(without_vocabulary), [], [param])
    chosen = run_vocabulary.choose(str(without_vocabulary), "text_files", reads_data=False)
    assert chosen.vocabulary[0].vocab_size == 356
    assert not cache.exists()
    assert capsys.readouterr().err == ""


def test_an_older_run_on_text_has_the_vocabulary_of_its_text_whatever_it_was_given(
    tiny: TinyRun, without_vocabulary: Path, text_vocabulary: Path, monkeypatch, capsys
) -> None:
    """Earlier versions ignored --vocabulary for text, and wrote it into config.gin."""
    with (without_vocabulary / "config.gin").open("a") as file:
        file.write(f"task_vocabulary.source = '{text_vocabulary}'\n")
    monkeypatch.setenv("MTF_SWITCH_CACHE", tiny.environment["MTF_SWITCH_CACHE"])
    saved_config.load(str(without_vocabulary))
    chosen = run_vocabulary.choose(str(without_vocabulary), "text_files")
    assert chosen.vocabulary[0].vocab_size == 400
    said = capsys.readouterr().err
    assert f"{without_vocabulary} does not keep the vocabulary" in said
    assert "vocabulary_300.model (SHA-256 " in said


def test_a_vocabulary_for_a_task_with_one_of_its_own_is_refused(
    trained: Path, task_of_others: seqio.Task, tmp_path: Path, monkeypatch
) -> None:
    import tasks

    monkeypatch.setattr(tasks, "prepare_text", lambda name: None)
    gin_config.parse(MODEL, [f"task_vocabulary.source = '{trained / 'vocabulary.model'}'"])
    with pytest.raises(UserError, match="has no effect: task 'task_of_others' has its own"):
        run_vocabulary.choose(str(tmp_path / "new"), task_of_others.name)


def test_the_vocabulary_of_a_new_run_on_text_can_be_another_file(
    text_vocabulary: Path, cache: Path, other_text: Path, tmp_path: Path
) -> None:
    """A fault ignored it, and trained a vocabulary of the text instead."""
    gin_config.parse(
        MODEL,
        [f"task_vocabulary.source = '{text_vocabulary}'", f"text_files.files = '{other_text}'"],
    )
    chosen = run_vocabulary.choose(str(tmp_path / "new"), "text_files")
    assert chosen.vocabulary[0].sentencepiece_model_file == str(text_vocabulary)
    assert not list(cache.glob("*/*.model"))


def test_a_file_that_is_not_a_vocabulary_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.model").write_text("This is no SentencePiece model.")
    gin_config.parse(MODEL, [f"task_vocabulary.source = '{tmp_path / 'text.model'}'"])
    with pytest.raises(UserError, match=r"text\.model"):
        run_vocabulary.choose(str(tmp_path / "new"), "super_glue_boolq_v102")
