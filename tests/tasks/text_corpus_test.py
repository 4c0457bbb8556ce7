from __future__ import annotations

import functools
import json
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import sentencepiece
import tensorflow as tf

from mtf_switch.errors import UserError
from tasks import document_split, text_cache, text_corpus
from tasks.docstrings import Docstrings
from tasks.document_split import read_documents, split_documents
from tasks.text_cache import cache_directory
from tasks.text_corpus import TextCorpus


@pytest.fixture
def text_file(tmp_path: Path, make_text) -> Path:
    file = tmp_path / "text.txt"
    file.write_text(make_text(105_000), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def prepared_cache(tmp_path_factory, make_text) -> Path:
    """A read-only cache in which the corpus of `text_file` is prepared."""
    folder = tmp_path_factory.mktemp("prepared")
    (folder / "text.txt").write_text(make_text(105_000), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MTF_SWITCH_CACHE", str(folder / "cache"))
        TextCorpus("fake", files=(str(folder / "text.txt"),), vocab_size=300).prepare()
    return folder / "cache"


@pytest.fixture
def prepared(corpus, cache, prepared_cache) -> text_corpus.PreparedCorpus:
    """The corpus in another cache, which a test may damage."""
    shutil.copytree(prepared_cache, cache)
    return corpus.prepare()


@pytest.fixture
def corpus(cache, text_file) -> TextCorpus:
    return TextCorpus("fake", files=(str(text_file),), vocab_size=300)


def contents(folder: Path) -> dict[str, bytes]:
    """Returns all parts of a corpus, without the times in its records."""
    files = {file.name: file.read_bytes() for file in folder.iterdir()}
    return {name: data for name, data in files.items() if not name.endswith(".json")}


def test_importing_it_does_not_import_tensorflow():
    code = "import sys, tasks.text_corpus; sys.exit('tensorflow' in sys.modules)"
    root = Path(text_corpus.__file__).parent.parent
    assert subprocess.run([sys.executable, "-c", code], cwd=root).returncode == 0


def test_the_cache_is_where_the_environment_says(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.delenv("MTF_SWITCH_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_directory() == Path("/home/someone/.cache/mtf_switch")
    monkeypatch.setenv("XDG_CACHE_HOME", "/var/caches")
    assert cache_directory() == Path("/var/caches/mtf_switch")
    monkeypatch.setenv("MTF_SWITCH_CACHE", "~/elsewhere")
    assert cache_directory() == Path("/home/someone/elsewhere")


def test_no_training_document_is_in_validation_and_none_is_lost(prepared, text_file):
    train = list(read_documents(prepared.train_file))
    validation = list(read_documents(prepared.validation_file))
    assert not set(train) & set(validation)
    words = text_file.read_text().split()
    assert sorted(" ".join(train + validation).split()) == sorted(words)
    assert prepared.documents == {"train": len(train), "validation": len(validation)}
    assert prepared.characters["train"] == sum(map(len, train))


def test_tensorflow_reads_the_same_documents(prepared):
    file = prepared.train_file
    records = tf.data.TFRecordDataset(str(file)).as_numpy_iterator()
    assert [record.decode() for record in records] == list(read_documents(file))


def test_repeats_in_other_white_space_and_empty_documents_are_dropped():
    documents = ["one  two", "one\ntwo\n", "\n", "---", "three", "one two"]
    splits = split_documents(documents)
    assert sorted(splits["train"] + splits["validation"]) == ["one  two", "three"]


def test_the_split_depends_on_the_text_alone_and_has_the_stated_share():
    documents = [f"document {i}" for i in range(20_000)]
    splits = split_documents(documents)
    # 2% of 20,000, with a standard deviation of 20.
    assert len(splits["validation"]) == pytest.approx(400, abs=80)
    others = [f"another {i}" for i in range(20_000)]
    larger = split_documents(others + documents[::-1])
    assert set(splits["validation"]) < set(larger["validation"])
    assert set(splits["train"]) < set(larger["train"])


@pytest.mark.parametrize("count", [2, 3, 10])
def test_both_splits_have_a_document_if_there_are_two(count):
    splits = split_documents(f"document {i}" for i in range(count))
    assert len(splits["validation"]) >= 1
    assert len(splits["train"]) >= 1


def test_a_second_call_touches_and_says_nothing(corpus, capsys):
    first = corpus.prepare()
    assert "Preparing the text of fake (once)" in capsys.readouterr().err
    times = {file: file.stat().st_mtime_ns for file in first.folder.iterdir()}
    assert corpus.prepare() == first
    assert {file: file.stat().st_mtime_ns for file in first.folder.iterdir()} == times
    assert capsys.readouterr().err == ""


def test_the_same_text_makes_the_same_bytes(corpus, prepared_cache):
    (first,) = prepared_cache.iterdir()
    assert set(contents(first)) == {
        "train.tfrecord",
        "validation.tfrecord",
        "vocabulary_300.model",
    }
    assert contents(corpus.prepare().folder) == contents(first)


def test_the_manifest_says_what_was_made_from_what(prepared):
    manifest = json.loads((prepared.folder / "manifest.json").read_text())
    assert manifest["splits"]["train"]["documents"] == prepared.documents["train"]
    assert manifest["splits"]["validation"]["characters"] > 0
    assert manifest["seconds"] >= 0
    assert len(manifest["identity"]["source"]["files"]) == 1


def test_vocabularies_of_several_sizes_share_the_text(prepared, text_file):
    large = TextCorpus("fake", (str(text_file),), vocab_size=500).prepare()
    assert large.folder == prepared.folder
    assert {prepared.vocabulary_file.name, large.vocabulary_file.name} == {
        "vocabulary_300.model",
        "vocabulary_500.model",
    }


def test_the_vocabulary_never_sees_the_validation_text(corpus, monkeypatch):
    seen = []

    def record(documents, **kwargs):
        seen.extend(documents)
        return b"model"

    monkeypatch.setattr(text_corpus, "train_vocabulary", record)
    assert seen == list(read_documents(corpus.prepare().train_file))


def test_a_changed_file_is_another_corpus(prepared, corpus, text_file):
    text_file.write_text(text_file.read_text() + "\n\nOne paragraph more.")
    after = corpus.prepare()
    assert after.folder != prepared.folder
    assert sum(after.characters.values()) > sum(prepared.characters.values())


def test_another_version_of_a_package_is_another_folder(cache, monkeypatch, tmp_path):
    versions = {"package": "1.0"}
    monkeypatch.setattr(Docstrings, "identity", lambda self: dict(versions))
    monkeypatch.setattr(
        Docstrings, "documents", lambda self: iter(f"text {i} " * 20 for i in range(1000))
    )
    corpus = TextCorpus("embedded", vocab_size=256)
    monkeypatch.setattr(text_corpus, "train_vocabulary", lambda *_, **__: b"model")
    before = corpus.prepare().folder
    assert corpus.prepare().folder == before
    versions["package"] = "1.1"
    assert corpus.prepare().folder != before


@pytest.mark.parametrize(
    "name",
    ["train.tfrecord", "validation.tfrecord", "manifest.json", "vocabulary_300.model"],
)
@pytest.mark.parametrize("damage", ["truncated", "altered", "deleted"])
def test_damage_is_noticed_and_mended(prepared, corpus, name, damage, capsys):
    intact = contents(prepared.folder)
    file = prepared.folder / name
    data = file.read_bytes()
    if damage == "deleted":
        file.unlink()
    else:
        altered = b"\x00" + data[1:]
        file.write_bytes(data[: len(data) // 2] if damage == "truncated" else altered)
    capsys.readouterr()
    assert corpus.prepare() == prepared
    assert contents(prepared.folder) == intact
    said = capsys.readouterr().err
    if not (name.endswith(".model") and damage == "deleted"):
        assert said.count("is damaged: making it again") == 1


@pytest.mark.parametrize(
    ("module", "step"),
    [
        (document_split, "split_documents"),
        (text_cache, "write_split"),
        (text_cache, "write_json"),
    ],
)
def test_an_interrupted_build_leaves_nothing(corpus, cache, monkeypatch, module, step):
    def interrupt(*args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, step, interrupt)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare()
    assert list(cache.iterdir()) == []
    assert corpus.prepare().documents["train"] > 0


def test_an_interrupted_training_leaves_the_text_without_a_vocabulary(corpus, monkeypatch):
    def interrupt(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(text_corpus, "train_vocabulary", interrupt)
        with pytest.raises(KeyboardInterrupt):
            corpus.prepare()
    prepared = corpus.prepare()
    assert set(contents(prepared.folder)) == {
        "train.tfrecord",
        "validation.tfrecord",
        "vocabulary_300.model",
    }


def test_whoever_completes_it_first_is_kept(corpus, cache, monkeypatch):
    """Another process completes the corpus just before this one would."""
    install = text_cache.install_folder
    overtaken = []

    def overtake(temporary, folder, read_valid_manifest):
        if not overtaken:
            overtaken.append(folder)
            corpus.prepare()
            overtaken.append((folder / "train.tfrecord").stat().st_ino)
        install(temporary, folder, read_valid_manifest)

    monkeypatch.setattr(text_cache, "install_folder", overtake)
    prepared = corpus.prepare()
    assert overtaken == [prepared.folder, prepared.train_file.stat().st_ino]
    assert list(cache.iterdir()) == [prepared.folder]


def test_several_at_once_all_get_the_corpus(corpus, cache):
    results: list[text_corpus.PreparedCorpus] = []
    threads = [
        threading.Thread(target=lambda: results.append(corpus.prepare())) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [corpus.prepare()] * 3
    assert list(cache.iterdir()) == [results[0].folder]
    assert not list(results[0].folder.glob(".*"))


def test_too_little_text_is_a_user_error_with_what_was_found(cache, tmp_path, make_text):
    (tmp_path / "small.txt").write_text(make_text(1_500) + "\n\n" + make_text(1_500))
    corpus = TextCorpus("fake", (f"{tmp_path}/*.txt",))
    message = r"at least 100,000 characters of distinct text; there are [\d,]+ in \d .*1 files"
    with pytest.raises(UserError, match=message):
        corpus.prepare()
    assert list(cache.iterdir()) == []


def test_packages_that_are_not_installed_are_a_user_error(cache, tmp_path, monkeypatch):
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("absent==1.0\n")
    nothing = functools.partial(Docstrings, requirements, (str(tmp_path),))
    monkeypatch.setattr(text_corpus, "Docstrings", nothing)
    with pytest.raises(UserError, match=r"there are 0 in 0 .*requirements.txt.*make install"):
        TextCorpus("embedded").prepare()


def test_a_cache_that_cannot_be_written_is_a_user_error(corpus, cache):
    cache.write_text("a file where the folder should be")
    with pytest.raises(UserError, match=r"cannot be kept in .*MTF_SWITCH_CACHE"):
        corpus.prepare()


def test_a_vocabulary_too_large_for_the_text_is_a_user_error(prepared, corpus):
    too_large = TextCorpus("fake", corpus.files, vocab_size=90_000)
    with pytest.raises(UserError, match=r"yields at most [\d,]+ .*vocab_size is 90,000"):
        too_large.prepare()


def test_a_size_that_fits_the_text_is_chosen(cache, tmp_path, capsys):
    generator = random.Random(0)
    words = [" abra", " cadabra", " abracadabra"]
    chinese = [chr(0x4E00 + i) for i in range(1100)]
    for name, alphabet, low, high in (("few", words, 8, 100), ("many", chinese, 2176, 2304)):
        file = tmp_path / f"{name}.txt"
        texts = [
            "".join(generator.choices(alphabet, k=1300 if name == "many" else 200))
            for _ in range(80)
        ]
        file.write_text("\n\n".join(texts))
        prepared = TextCorpus(name, files=(str(file),), vocab_size=None).prepare()
        model = sentencepiece.SentencePieceProcessor(model_file=str(prepared.vocabulary_file))
        assert low <= model.get_piece_size() <= high, name
    printed = capsys.readouterr().err
    assert re.search(r"This text needs at most \d\d pieces", printed)
    assert re.search(r"This text needs at least 1,[01]\d\d pieces", printed)


def test_values_are_checked_before_any_work():
    with pytest.raises(UserError, match=r"vocab_size must be .* it is 10"):
        TextCorpus("fake", vocab_size=10)
    for files in ((), (3,)):
        with pytest.raises(UserError, match=rf"as a path or glob.*{re.escape(str(files))}"):
            TextCorpus("fake", files=files)


def test_an_unknown_split_is_a_user_error(prepared):
    with pytest.raises(UserError, match=r"splits train and validation, not 'valid'"):
        prepared.split_file("valid")
