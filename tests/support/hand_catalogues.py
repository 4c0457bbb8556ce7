"""Hand-made gettext catalogues, and wheels that hold them."""

from __future__ import annotations

import random
import zipfile
from collections.abc import Mapping
from pathlib import Path

HEADER = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=UTF-8\\n"\n\n'
# The letters of made-up words.
LETTERS = {"en": "abcdefghij", "de": "klmnopqrst", "ru": "абвгдежзик", "hi": "कखगघचछजझटठ"}


def format_po(translations: Mapping[str, str]) -> str:
    """Returns a catalogue: English message -> translation."""
    entries = [f'msgid "{id_}"\nmsgstr "{text}"\n' for id_, text in translations.items()]
    return HEADER + "\n".join(entries)


def write_wheel(folder: Path, files: Mapping[str, str], name: str = "made_up-1.0") -> Path:
    """Writes a wheel with catalogues: name in the wheel -> content."""
    wheel = folder / f"{name}-py3-none-any.whl"
    metadata = "Metadata-Version: 2.1\nName: made-up\nLicense-Expression: MIT\n"
    with zipfile.ZipFile(wheel, "w") as archive:
        for place, content in files.items():
            archive.writestr(place, content)
        archive.writestr(f"{name}.dist-info/METADATA", metadata)
    return wheel


def make_sentences(language: str, count: int) -> list[str]:
    """Returns made-up sentences of four words of six letters, the same in every call."""
    draw = random.Random(language)
    letters = LETTERS[language]
    return [
        " ".join("".join(draw.choices(letters, k=6)) for _ in range(4)) for _ in range(count)
    ]


def write_languages(folder: Path, count: int = 300) -> Path:
    """Writes a wheel with German, Russian and Hindi translations of `count` messages.

    Russian has all, German every second and Hindi every third of them, so their sizes differ.
    """
    sources = make_sentences("en", count)
    files = {}
    for step, language in ((1, "ru"), (2, "de"), (3, "hi")):
        texts = make_sentences(language, count)
        pairs = dict(list(zip(sources, texts))[::step])
        files[f"made_up/locale/{language}/LC_MESSAGES/django.po"] = format_po(pairs)
    return write_wheel(folder, files)
