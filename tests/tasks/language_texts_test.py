"""The texts of each language: what is kept, what is left out, and that no message leaks."""

from __future__ import annotations

import hand_catalogues
import pytest

from tasks import catalogue_files, language_texts, message_text
from tasks.catalogue_files import CatalogueFile, Catalogues
from tasks.language_texts import Extraction
from tasks.multilingual_corpus import MIN_CHARACTERS


def extract(files: dict[str, dict[str, str] | bytes]) -> Extraction:
    """Extracts from catalogues: "place locale" -> translations or bytes."""
    return language_texts.extract_files(
        CatalogueFile(
            name,
            name.split()[1],
            content
            if isinstance(content, bytes)
            else hand_catalogues.format_po(content).encode(),
        )
        for name, content in files.items()
    )


def lines(extraction: Extraction, code: str) -> set[str]:
    documents = extraction.documents[code]
    return {line for split in documents.values() for text in split for line in text.split("\n")}


def test_what_is_kept_and_what_is_left_out() -> None:
    extraction = extract(
        {
            "1 de": {"Save": "Speichern", "Name": "Name", "Save all": "speichern!"},
            "2 sr": {"Save": "Сачувај", "Delete": "Obriši"},
            "3 sr@latin": {"Save": "Sačuvaj", "Delete": "Obriši"},
            "4 fu": {"Save": "x"},
            "5 de": b'nonsense "x"',
            "6 ca@valencia": {"Save": "Guardar"},
        }
    )
    assert lines(extraction, "en") == {"Save", "Name", "Save all", "Delete"}
    assert lines(extraction, "de") == {"Speichern"}
    assert lines(extraction, "sr") == {"Сачувај"}
    assert lines(extraction, "sr_Latn") == {"Sačuvaj", "Obriši"}
    skipped = extraction.skipped
    assert (skipped.untranslated, skipped.other_script, skipped.repeats) == (1, 1, 1)
    assert skipped.unknown_locales == ["4 fu", "6 ca@valencia"]
    assert list(skipped.unreadable) == ["5 de"]
    assert extraction.catalogues == 3


def find_leaks(extraction: Extraction) -> set[str]:
    """Returns the keys of texts that are in both splits, of one language or of two."""
    found: dict[str, set[str]] = {"train": set(), "validation": set()}
    for splits in extraction.documents.values():
        for split, documents in splits.items():
            texts = (line for document in documents for line in document.split("\n"))
            found[split].update(map(message_text.make_key, texts))
    assert all(found.values())
    return found["train"] & found["validation"]


def test_no_message_leaks_between_splits_across_languages() -> None:
    """German and Russian translations of a message are in one split, as is its English text."""
    sources = hand_catalogues.make_sentences("en", 400)
    german = hand_catalogues.make_sentences("de", 400)
    russian = hand_catalogues.make_sentences("ru", 400)
    # Every fifth message has the translation of the one before: the two may not be divided.
    german = [german[i - 1] if i % 5 == 4 else text for i, text in enumerate(german)]
    extraction = extract(
        {
            "1 de": dict(zip(sources, german)),
            "2 ru": dict(zip(sources, russian)),
        }
    )
    assert not find_leaks(extraction)
    held_out = {
        line
        for code in ("en", "de", "ru")
        for text in extraction.documents[code]["validation"]
        for line in text.split("\n")
    }
    for message in zip(sources, german, russian):
        assert len({text in held_out for text in message}) == 1
    for i in range(4, 400, 5):
        assert (sources[i] in held_out) == (sources[i - 1] in held_out)


def test_documents_have_several_messages() -> None:
    sources = hand_catalogues.make_sentences("en", 300)
    translations = hand_catalogues.make_sentences("de", 300)
    documents = extract({"1 de": dict(zip(sources, translations))}).documents["de"]
    for texts in documents.values():
        for text in texts[:-1]:
            # The last line of a sentence has 27 characters.
            assert 400 <= len(text.replace("\n", "")) < 427


@pytest.mark.slow
def test_no_message_leaks_in_the_whole_corpus() -> None:
    from tasks.language_choice import LANGUAGES

    catalogues = Catalogues()
    try:
        catalogues.paths()
    except Exception:
        pytest.skip(f"the packages are not there: {catalogue_files.INSTALL}")
    extraction = language_texts.extract(catalogues)
    assert not find_leaks(extraction)
    assert not extraction.skipped.unreadable
    sizes = {
        code: sum(len(text) for texts in splits.values() for text in texts)
        for code, splits in extraction.documents.items()
    }
    assert tuple(code for code, size in sizes.items() if size >= MIN_CHARACTERS) == LANGUAGES
