"""mC4: 101 languages in 107 tasks, drawn by size to the power of alpha."""

from __future__ import annotations

from pathlib import Path

import gin
import numpy as np
import pytest
import seqio
import tfds_examples
from babel import Locale, UnknownLocaleError

import tasks
from tasks import mc4, tfds_data
from tasks.task_vocabulary import task_vocabulary

SCRIPTS = ("bg-Latn", "el-Latn", "hi-Latn", "ja-Latn", "ru-Latn", "zh-Latn")
# Their names in CLDR, or another language if CLDR has no text.
CLDR = {"iw": "he", "no": "nb", "fil": "fil"}


def make_text(language: str) -> str:
    """Returns names of countries in a language, from CLDR."""
    code = CLDR.get(language, language.split("-")[0])
    try:
        names = Locale.parse(code).territories
    except (UnknownLocaleError, ValueError):
        names = Locale.parse("en").territories
    return ", ".join(list(names.values())[:60]) or "text"


def documents(language: str, number: int) -> list[dict]:
    return [
        {
            "text": f"{i}: {make_text(language)}",
            "url": "http://example.org",
            "timestamp": "2020-01-01T00:00:00Z",
            "content-type": "text/plain",
            "content-length": "1",
        }
        for i in range(number)
    ]


def count_documents(language: str) -> int:
    """Returns a number of documents, from one to four."""
    return 1 + len(make_text(language)) % 4


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory) -> Path:
    """Real text in every language, in TFDS's 214 splits."""
    folder = tmp_path_factory.mktemp("mc4")
    splits = {}
    for language in mc4.languages():
        splits[language] = documents(language, count_documents(language))
        splits[f"{language}-validation"] = documents(language, 1)
    tfds_examples.write_dataset(mc4.MC4, folder, splits)
    return folder


def test_there_are_101_languages_and_six_more_scripts() -> None:
    languages = mc4.languages()
    assert len(languages) == 107
    assert {code for code in languages if "-" in code} == set(SCRIPTS)
    assert len({code.split("-")[0] for code in languages}) == 101
    tasks.register()
    names = {mc4.task_name(code) for code in languages}
    assert names <= seqio.TaskRegistry.names()
    assert {t.name for t in seqio.MixtureRegistry.get("mc4").tasks} == names


def test_its_own_vocabulary_is_mt5s_unless_another_is_named() -> None:
    tasks.register()
    vocabulary = seqio.TaskRegistry.get("mc4.de").output_features["targets"].vocabulary
    assert vocabulary._sentencepiece_model_file == mc4.VOCABULARY
    assert vocabulary.extra_ids == 0  # they are in the file
    gin.bind_parameter("task_vocabulary.source", "embedded_text")
    tasks.register()
    assert seqio.TaskRegistry.get("mc4.de").output_features["targets"].vocabulary == (
        task_vocabulary()
    )


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.3, 1.0])
def test_languages_are_drawn_by_size_to_the_power_of_alpha(
    data_dir: Path, text_vocabulary: Path, alpha: float
) -> None:
    gin.bind_parameter("tfds_data.data_dir", str(data_dir))
    gin.bind_parameter("task_vocabulary.source", str(text_vocabulary))
    gin.bind_parameter("mc4_rate.alpha", alpha)
    tasks.register()
    tfds_data.check_prepared("mc4")
    mixture = seqio.MixtureRegistry.get("mc4")
    rates = {task.name: mixture.get_rate(task) for task in mixture.tasks}
    for language in mc4.languages():
        assert rates[mc4.task_name(language)] == pytest.approx(
            count_documents(language) ** alpha
        )


@pytest.mark.slow
def test_every_language_becomes_span_corruption(data_dir: Path, text_vocabulary: Path) -> None:
    gin.bind_parameter("tfds_data.data_dir", str(data_dir))
    gin.bind_parameter("task_vocabulary.source", str(text_vocabulary))
    tasks.register()
    tfds_data.check_prepared("mc4")
    lengths = {"inputs": 32, "targets": 16}
    for language in mc4.languages():
        task = seqio.TaskRegistry.get(mc4.task_name(language))
        dataset = task.get_dataset(lengths, "validation", shuffle=False, seed=0)
        example = next(dataset.as_numpy_iterator())
        # 256 pieces and 100 sentinels; the first sentinel is the highest id.
        assert example["targets"][0] == 355
        assert np.count_nonzero(example["inputs"] >= 256) >= 1
