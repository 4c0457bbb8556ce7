"""One gettext catalogue: plurals, fuzzy and obsolete entries, contexts, names of messages."""

from __future__ import annotations

import pytest

from tasks import po_catalogue
from tasks.po_catalogue import Translation

# The header has a date that Babel's parser refuses, and two plural forms where entries have three.
CATALOGUE = r"""
msgid ""
msgstr ""
"POT-Creation-Date: YEAR-MO-DA HO:MI +ZONE\n"
"Content-Type: text/plain; charset=UTF-8\n"
"Plural-Forms: nplurals=2; plural=(n > 1);\n"

msgid "Save"
msgstr "Speichern"

msgctxt "month"
msgid "May"
msgstr "Mai"

msgctxt "verb"
msgid "May"
msgstr "Kann"

msgid "%(n)d file"
msgid_plural "%(n)d files"
msgstr[0] "%(n)d Datei"
msgstr[1] "%(n)d Dateien"
msgstr[2] "%(n)d Dateien"

#, fuzzy
#| msgid "Old"
msgid "New text"
msgstr "Alter Text"

msgid "Missing"
msgstr ""

#. Default: "A \"title\" of the page"
msgid "label_title"
msgstr "Der Titel"

msgid "label_other"
msgstr "Etwas anderes"

msgid ""
"One line, "
"and more"
msgstr "Eine Zeile"

#~ msgid "Gone"
#~ msgstr "Weg"

#, fuzzy
#~| msgid "Unsubscribe All"
#~ msgid "Unsubscribe"
#~ msgstr "Abmelden"
"""


def test_every_kind_of_entry() -> None:
    assert po_catalogue.read(CATALOGUE.encode()) == [
        Translation("Save", ("Save",), ("Speichern",)),
        # The context is no part of a message's identity.
        Translation("May", ("May",), ("Mai",)),
        Translation("May", ("May",), ("Kann",)),
        Translation("%(n)d file", ("file", "files"), ("Datei", "Dateien")),
        Translation("New text", ("New text",), ()),
        Translation("Missing", ("Missing",), ()),
        Translation("label_title", ('A "title" of the page',), ("Der Titel",)),
        Translation("label_other", (), ("Etwas anderes",)),
        Translation("One line, and more", ("One line, and more",), ("Eine Zeile",)),
    ]


def test_another_encoding() -> None:
    text = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=KOI8-R\\n"\n\n'
    content = (text + 'msgid "Save"\nmsgstr "Сохранить"\n').encode("koi8-r")
    assert po_catalogue.read(content)[0].texts == ("Сохранить",)


@pytest.mark.parametrize(
    "content",
    [
        b'msgid "a"\nnonsense "b"\n',
        b'msgid ""\nmsgstr "Content-Type: text/plain; charset=x\\n"\n\nmsgid "a"\nmsgstr "b"',
        b'msgid "a"\nmsgstr "\xff\xfe"\n',
        b"PK\x03\x04 a zip archive",
        b'msgid "a"\nmsgstr[x] "b"\n',
    ],
)
def test_what_does_not_parse_has_one_error(content: bytes) -> None:
    with pytest.raises(po_catalogue.CatalogueError):
        po_catalogue.read(content)
