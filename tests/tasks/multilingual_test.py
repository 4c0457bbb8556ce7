"""The multilingual tasks: corpus on disk, mixture, vocabulary, messages for bad input."""

from __future__ import annotations

from pathlib import Path

import gin
import hand_catalogues
import numpy as np
import pytest
import sentencepiece
import seqio

import tasks
from mtf_switch.errors import UserError
from tasks import language_sampling, mc4, multilingual_corpus, pretraining, task_list
from tasks.catalogue_files import Catalogues
from tasks.document_split import read_documents
from tasks.multilingual_corpus import MultilingualCorpus, multilingual
from tasks.vocabulary import SAMPLE_CHARACTERS

LANGUAGES = ("de", "hi", "ru")
SIZE = 450


@pytest.fixture(scope="module", autouse=True)
def prepared_folder(tmp_path_factory):
    """A cache with the prepared corpus of a hand-made wheel."""
    folder = tmp_path_factory.mktemp("multilingual")
    hand_catalogues.write_languages(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTF_SWITCH_CACHE", str(folder / "cache"))
        patch.setattr(multilingual_corpus, "MIN_CHARACTERS", 1000)
        yield folder


def make_corpus(folder: Path, **values) -> MultilingualCorpus:
    catalogues = Catalogues((str(folder / "*.whl"),))
    return MultilingualCorpus(
        **{"languages": LANGUAGES, "vocab_size": SIZE, **values}, catalogues=catalogues
    )


def read_documents_of(folder: Path, split: str) -> dict[str, list[str]]:
    texts = make_corpus(folder).prepared_texts
    return {code: list(read_documents(text.split_file(split))) for code, text in texts.items()}


@pytest.fixture
def registered(prepared_folder: Path):
    """The tasks, registered as gin configures them; afterwards, the usual ones."""
    with gin.unlock_config():
        gin.clear_config()
        gin.bind_parameter("multilingual.languages", LANGUAGES)
        gin.bind_parameter("multilingual.catalogues", str(prepared_folder / "*.whl"))
        gin.bind_parameter("multilingual.vocab_size", SIZE)
        tasks.register()
        yield
        gin.clear_config()
        tasks.register()


def test_the_corpus_is_prepared_once_and_repaired(prepared_folder: Path, capsys) -> None:
    texts = make_corpus(prepared_folder).prepared_texts
    capsys.readouterr()
    assert make_corpus(prepared_folder).prepared_texts == texts
    assert capsys.readouterr().err == ""
    file = texts["de"].train_file
    intact = file.read_bytes()
    file.write_bytes(intact[:-1])
    assert make_corpus(prepared_folder).prepared_texts == texts
    said = capsys.readouterr().err
    assert "is damaged: making it again" in said
    assert "4 languages with 1,000 characters or more" in said
    assert file.read_bytes() == intact


def test_the_vocabulary_spells_what_it_lacks_in_bytes(prepared_folder: Path) -> None:
    corpus = make_corpus(prepared_folder)
    vocabulary = pretraining.CorpusVocabulary(corpus)
    assert vocabulary.vocab_size == SIZE + 100
    # No catalogue has Greek or Chinese letters.
    for text in ("klmnop qrstkl", "абвгде", "कखगघ", "Ελλάδα 中文"):
        ids = vocabulary.encode(text)
        assert vocabulary.unk_id not in ids
        assert vocabulary.decode(ids) == text
        assert list(vocabulary.encode_tf(text).numpy()) == ids
    assert set(corpus.prepared.coverage) == set(LANGUAGES)
    assert all(share == 1 for share in corpus.prepared.coverage.values())


def test_the_vocabulary_is_trained_on_the_whole_sample_in_any_order_of_the_languages(
    prepared_folder: Path, monkeypatch
) -> None:
    class TrainingBegins(Exception):
        pass

    samples = []

    def train(sentence_iterator, **_) -> None:
        samples.append(list(sentence_iterator))
        raise TrainingBegins

    monkeypatch.setattr(sentencepiece.SentencePieceTrainer, "train", train)
    for languages in (LANGUAGES, LANGUAGES[::-1]):
        # No other test has trained a vocabulary of this size.
        with pytest.raises(TrainingBegins):
            _ = make_corpus(prepared_folder, languages=languages, vocab_size=SIZE + 1).prepared
    assert samples[0] == samples[1]
    # A line has a line break, except for the last one of a document.
    assert sum(len(line) + 1 for line in samples[0]) >= SAMPLE_CHARACTERS


def test_coverage_counts_the_characters_that_are_spelled_in_bytes(
    prepared_folder: Path,
) -> None:
    """A vocabulary of German text covers its own letters and no others."""
    german = make_corpus(prepared_folder, languages=("de",), vocab_size=300)
    model = german.prepared.vocabulary_file.read_bytes()
    documents = read_documents_of(prepared_folder, "validation")
    coverage = language_sampling.measure_coverage(model, documents)
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert processor.get_piece_size() == 300
    assert coverage["de"] == 1
    # Of four words of six letters, only the spaces and line breaks between them have a piece.
    text = "\n".join(documents["ru"])
    letters = sum(map(str.isalpha, text))
    assert coverage["ru"] == pytest.approx(1 - letters / len(text), abs=0.01)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_sample_has_mt5s_shares(prepared_folder: Path, alpha: float) -> None:
    """Equation in Section 3.1 of the mT5 paper: p(L) is proportional to |L|^alpha."""
    documents = read_documents_of(prepared_folder, "train")
    sample = language_sampling.sample_documents(documents, alpha, characters=60_000)
    rates = np.array([len(documents[code]) for code in LANGUAGES]) ** alpha
    found = []
    for code in LANGUAGES:
        letter = hand_catalogues.LETTERS[code]
        found.append(sum(len(text) for text in sample if text[0] in letter))
    # A language may exceed its share by one document of at most 430 characters.
    np.testing.assert_allclose(np.array(found) / 60_000, rates / rates.sum(), atol=430 / 60_000)


def test_the_mixture_has_mt5s_rates(registered) -> None:
    mixture = seqio.MixtureRegistry.get("multilingual")
    assert [task.name for task in mixture.tasks] == [f"multilingual.{c}" for c in LANGUAGES]
    for task in mixture.tasks:
        documents = task.num_input_examples("train")
        assert mixture.get_rate(task) == pytest.approx(documents**0.3)
    sizes = [task.num_input_examples("train") for task in mixture.tasks]
    assert sizes[1] < sizes[0] < sizes[2]


def test_the_tasks_are_made_like_those_of_mc4(registered) -> None:
    ours = seqio.TaskRegistry.get("multilingual.ru")
    theirs = seqio.TaskRegistry.get(mc4.task_name("ru"))
    steps = [
        [getattr(step, "__name__", type(step)) for step in task.preprocessors[1:]]
        for task in (ours, theirs)
    ]
    assert steps[0] == steps[1]
    lengths = {"inputs": 32, "targets": 8}
    examples = list(ours.get_dataset(lengths, "validation", shuffle=False).as_numpy_iterator())
    vocabulary = ours.output_features["targets"].vocabulary
    text = "".join(vocabulary.decode(ex["inputs"].tolist()) for ex in examples)
    assert set(hand_catalogues.LETTERS["ru"]) <= set(text)
    assert all(ex["targets"][0] == vocabulary.vocab_size - 1 for ex in examples)


def test_tasks_shows_sizes_splits_and_coverage(registered, prepared_folder: Path) -> None:
    _ = multilingual().prepared
    table = task_list.format_table(task_list.list_tasks("multilingual*"))
    (line,) = (line for line in table.splitlines() if line.startswith("multilingual.ru "))
    assert "yes" in line
    assert "characters, 100.00% of them with a piece" in line
    assert "train " in line
    assert "validation " in line
    assert "mixture of 3" in table


def test_a_task_can_use_the_vocabulary_by_its_name(registered) -> None:
    from tasks.task_vocabulary import task_vocabulary

    assert task_vocabulary("multilingual") == pretraining.CorpusVocabulary(multilingual())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"languages": ("de", "nl")}, "no text in 'nl'.*Remove it from multilingual.languages"),
        ({"languages": ("qq",)}, "'qq' is no locale that CLDR knows"),
        ({"languages": ()}, "multilingual.languages is empty"),
        ({"vocab_size": 100}, "vocab_size must be a whole number from 256"),
        ({"vocab_size": 270}, "at least one piece for each distinct character.*vocab_size"),
        ({"vocab_size": 90_000}, "at most .* pieces.*vocab_size"),
    ],
)
def test_bad_values_have_one_message(prepared_folder: Path, values, message: str) -> None:
    with pytest.raises(UserError, match=message):
        _ = make_corpus(prepared_folder, **values).prepared


def test_a_language_with_too_little_text_is_refused(prepared_folder: Path, monkeypatch) -> None:
    monkeypatch.setattr(multilingual_corpus, "MIN_CHARACTERS", 10_000)
    with pytest.raises(UserError, match=r"at least 10,000 characters .*'de' has [\d,]+ char"):
        _ = make_corpus(prepared_folder).prepared_texts


def test_without_the_packages_tasks_are_listed_and_refused_in_use(
    tmp_path: Path, monkeypatch
) -> None:
    corpus = MultilingualCorpus(LANGUAGES, Catalogues(folder=tmp_path))
    assert not corpus.is_prepared()
    assert not corpus.has_catalogues()
    with pytest.raises(UserError, match="make install-multilingual"):
        _ = corpus.prepared_texts
