"""Extracts the texts of each language from gettext catalogues, and divides them into documents.

    catalogues -> messages without markup -> without repeats, English leftovers, other scripts
        -> splits by message, the same in all languages -> documents of several messages

English is the source of the catalogues, so its text comes from the messages themselves.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Iterable, Iterator

from tqdm import tqdm

from tasks import locale_codes, message_text, po_catalogue
from tasks.catalogue_files import CatalogueFile, Catalogues
from tasks.document_split import SPLITS, Split
from tasks.message_split import MessageGroups
from tasks.po_catalogue import Translation

# Increase this whenever the same catalogues would give other documents.
EXTRACTION_VERSION = 1

ENGLISH = "en"
# Consecutive messages form a document of at least this many characters: about 100 tokens.
DOCUMENT_CHARACTERS = 400


@dataclasses.dataclass(frozen=True)
class Skipped:
    """What the extraction left out.

    Attributes:
      unreadable: Catalogue -> why it cannot be parsed.
      unknown_locales: Catalogues whose path names no locale that CLDR knows.
      untranslated: Number of translations that are equal to the English text.
      other_script: Number of translations that are mostly in a script of another language.
      repeats: Number of translations that repeat a text of the language.
    """

    unreadable: dict[str, str]
    unknown_locales: list[str]
    untranslated: int
    other_script: int
    repeats: int


@dataclasses.dataclass(frozen=True)
class Extraction:
    """The documents of all languages.

    Attributes:
      documents: Language -> split -> documents, in the order of the catalogues.
      catalogues: The number of catalogues that were read.
      skipped: What was left out.
    """

    documents: dict[str, dict[Split, list[str]]]
    catalogues: int
    skipped: Skipped


def extract(catalogues: Catalogues) -> Extraction:
    """Extracts the documents of all languages.

    Raises:
      UserError: In the cases of `Catalogues.read`.
    """
    # disable=None: no progress bar unless standard error is a terminal.
    with tqdm(catalogues.read(), "catalogues", catalogues.count(), disable=None) as files:
        return extract_files(files)


def extract_files(files: Iterable[CatalogueFile]) -> Extraction:
    """Extracts the documents of all languages from catalogues; see `extract`."""
    texts = _Texts()
    unreadable, unknown, read = {}, [], 0
    for file in files:
        code = locale_codes.find_code(file.locale)
        if code is None:
            unknown.append(file.place)
            continue
        try:
            translations = po_catalogue.read(file.content)
        except po_catalogue.CatalogueError as error:
            unreadable[file.place] = str(error)
            continue
        read += 1
        for translation in translations:
            texts.add(code, translation)
    splits = texts.groups.find_splits()
    documents = {
        code: {
            split: list(_make_documents(t for key, t in found.items() if splits[key] == split))
            for split in SPLITS
        }
        for code, found in sorted(texts.found.items())
    }
    counts = {name: texts.skipped[name] for name in ("untranslated", "other_script", "repeats")}
    return Extraction(documents, read, Skipped(unreadable, unknown, **counts))


class _Texts:
    """The distinct texts of each language, and the groups of their messages.

    Attributes:
      found: Language -> key of a text -> the text; see `message_text.make_key`.
      groups: The groups.
      skipped: Reason -> number of translations that were left out for it.
    """

    def __init__(self) -> None:
        self.found: dict[str, dict[str, str]] = collections.defaultdict(dict)
        self.groups = MessageGroups()
        self.skipped: collections.Counter[str] = collections.Counter()

    def add(self, code: str, translation: Translation) -> None:
        """Adds the texts of a message in English and in a language."""
        sources = {message_text.make_key(text): text for text in translation.sources}
        texts = {message_text.make_key(text): text for text in translation.texts}
        for key, text in sources.items():
            self.found[ENGLISH].setdefault(key, text)
        # Texts that are left out are joined, too: another language or message may have them.
        self.groups.join(translation.message, [*sources, *texts])
        for key, text in texts.items():
            if self._is_kept(code, key, text, sources):
                self.found[code][key] = text

    def _is_kept(self, code: str, key: str, text: str, sources: dict[str, str]) -> bool:
        """Returns whether a translation is new text of its language; counts it if not."""
        if key in self.found[code]:
            reason = "repeats"
        elif key in sources:
            reason = "untranslated"
        elif not locale_codes.is_in_script(text, locale_codes.find_script(code)):
            reason = "other_script"
        else:
            return True
        self.skipped[reason] += 1
        return False


def _make_documents(texts: Iterable[str]) -> Iterator[str]:
    """Yields documents of consecutive texts, one on each line."""
    lines: list[str] = []
    for text in texts:
        lines.append(text)
        if sum(map(len, lines)) >= DOCUMENT_CHARACTERS:
            yield "\n".join(lines)
            lines = []
    if lines:
        yield "\n".join(lines)
