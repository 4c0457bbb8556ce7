"""The offline downstream tasks: their text, and that nothing leaks into validation."""

from __future__ import annotations

import json
import random
from pathlib import Path

import gin
import pytest
import seqio

import tasks
from tasks import embedded_tasks
from tasks.docstrings import Docstring, Docstrings
from tasks.document_split import document_digest, is_for_validation, split_documents

WORDS = [f"word{i}" for i in range(400)]


def sentence(chooser: random.Random, words: int) -> str:
    return " ".join(chooser.choices(WORDS, k=words))


@pytest.fixture(scope="module")
def docstrings() -> list[Docstring]:
    """Made-up docstrings, some of which copy runs of words from others."""
    chooser = random.Random(0)
    found, copied = [], [sentence(chooser, 14) for _ in range(20)]
    for i in range(3000):
        first, rest = sentence(chooser, 6), sentence(chooser, 25)
        if i % 3 == 0:
            rest += " " + chooser.choice(copied)
        package = f"package{chooser.randrange(15) // (1 + i % 2)}"
        text = f"{first}.\n\n{rest}"
        name = ("", f"Thing{i}", f"do_it_{i}", f"Thing{i}.method")[i % 4]
        found.append(Docstring(package, f"{package}.module{i % 40}", name, text))
    # One text in two packages, and one name in two modules.
    found += [Docstring("other", "other.copy", "Copy", found[1].text)]
    found += [Docstring("package0", "package0.again", "Thing1", sentence(chooser, 40))]
    return found


@pytest.fixture(scope="module")
def made(docstrings):
    return embedded_tasks.make_examples(docstrings)


def split_words(text: str) -> list[str]:
    return text.replace(".", " ").lower().split()


def test_no_13_words_of_a_validation_example_occur_in_the_training_text(
    made, docstrings
) -> None:
    """Searches the text, over everything that `embedded_text` trains on."""
    trained = split_documents(d.text for d in docstrings)["train"]
    text = " | ".join(" ".join(split_words(document)) for document in trained)
    checked = 0
    for task in (embedded_tasks.PACKAGE, embedded_tasks.SUMMARY):
        for example in made[task]["validation"]:
            words = split_words(example.inputs.split(": ", 1)[1])
            for start in range(len(words) - 12):
                assert " ".join(words[start : start + 13]) not in text
            checked += 1
    assert checked > 20
    # The test can fail: a third of the docstrings are copies, and were left out.
    held_out = [d for d in docstrings if is_for_validation(document_digest(d.text))]
    assert len(made[embedded_tasks.SUMMARY]["validation"]) < len(held_out)


def test_no_question_of_validation_is_asked_in_training(made) -> None:
    for of_split in made.values():
        trained = {example.inputs for example in of_split["train"]}
        assert of_split["validation"]
        assert not any(example.inputs in trained for example in of_split["validation"])


def test_a_text_of_two_packages_has_no_label(made, docstrings) -> None:
    text = " ".join(docstrings[1].text.split())
    for part in made[embedded_tasks.PACKAGE].values():
        assert not any(text in example.inputs for example in part)


def test_the_text_of_each_task() -> None:
    """Texts by hand."""
    prose = " ".join(f"w{i}" for i in range(25))
    one = Docstring("pip", "pip.main", "Runner", f"Runs a command\nto its end.\n\n{prose}")
    two = Docstring("pip", "pip.other", "Runner", "Runs something else.")
    method = Docstring("pip", "pip.main", "Runner.run", "Runs.")
    known = [d for d in (one, two, method) if not is_for_validation(document_digest(d.text))]
    assert len(known) == 3
    made = embedded_tasks.make_examples(known)
    packages = {e.inputs: e.targets for e in made["embedded_package"]["train"]}
    assert packages[f"package: Runs a command to its end. {prose}"] == "pip"
    (summary,) = made["embedded_summary"]["train"]
    assert (summary.inputs, summary.targets) == (
        f"summarize: {prose}",
        "Runs a command to its end.",
    )
    (module,) = made["embedded_module"]["train"]
    assert module.inputs == "module question: Runner"
    assert module.answers == ("pip main", "pip other")
    assert module.targets == "pip main"


def test_examples_are_cached_and_read_through_the_registry(
    docstrings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MTF_SWITCH_CACHE", str(tmp_path))
    monkeypatch.setattr(Docstrings, "docstrings", lambda self: iter(docstrings))
    monkeypatch.setattr(Docstrings, "identity", lambda self: {"made": "up"})
    gin.clear_config()
    tasks.register()
    assert not embedded_tasks.is_prepared()
    embedded_tasks.prepare_examples("embedded_downstream")
    assert embedded_tasks.is_prepared()
    file = embedded_tasks.ensure_examples_file()
    before = file.stat().st_mtime_ns
    embedded_tasks.prepare_examples("embedded_downstream")
    assert file.stat().st_mtime_ns == before
    source = seqio.TaskRegistry.get("embedded_module").source
    (example, *_) = source.get_dataset("validation", shuffle=False).as_numpy_iterator()
    assert example["inputs"].decode().startswith("module question: ")
    assert example["targets"] == example["answers"][0]
    assert source.num_input_examples("validation") == len(source.examples("validation"))
    whole = json.loads(file.read_text())
    first = whole["embedded_module"]
    for odd in (5, [5], [["a", "b", "c"]], [["a", "b", [5]]], [["a", 5, ["c"]]], [["a", "b"]]):
        file.write_text(json.dumps({**whole, "embedded_module": {**first, "train": odd}}))
        assert not embedded_tasks.is_prepared()
    for damaged in ("{", "[]", "5", "[" * 99_999, json.dumps(dict.fromkeys(whole, "x"))):
        file.write_text(damaged)
        assert not embedded_tasks.is_prepared()
    assert embedded_tasks.ensure_examples_file().stat().st_size > 1000


def test_the_mixture_draws_the_three_equally_often() -> None:
    tasks.register()
    mixture = seqio.MixtureRegistry.get("embedded_downstream")
    assert [mixture.get_rate(task) for task in mixture.tasks] == [1.0, 1.0, 1.0]
