"""Texts of messages without markup and placeholders."""

# ruff: noqa: RUF001 (letters of other scripts look like Latin ones)

from __future__ import annotations

import pytest

from tasks import message_text


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("Save", "Save"),
        ('Select <a href="%(url)s">all %(total_count)s items</a>', "Select all items"),
        ("The file %s has %d lines", "The file has lines"),
        ("%5.1f%% of %1$s", "of"),
        ("50% discount", "50% discount"),
        ("50% of all", "50% of all"),
        ("Hello ${name}, {0} and {user}!", "Hello, and !"),
        ("{% url 'x' %}Read {{ title }} now", "Read now"),
        ("Tom &amp; Jerry &lt;b&gt;", "Tom & Jerry"),
        # Some translators escape twice.
        ("Caf&amp;eacute; &amp;lt;b&amp;gt;", "Café"),
        ("&File", "File"),
        ("Line one\\nline two\nline three", "Line one\\nline two line three"),
        ("see :ref:`the docs <x>`", "see the docs"),
        ("Go to https://example.org/a?b=c now", "Go to now"),
        ("Write to me@example.org.", "Write to"),
        ("Deleted (%s).", "Deleted."),
        ("a < b and b > c", "a < b and b > c"),
        # Right to left: the marks of direction go, the joiner of Persian stays.
        ("\u200fשמור\u200e", "שמור"),
        ("می\u200cخواهم", "می\u200cخواهم"),
        # A letter and a combining accent become one character, as in NFC.
        ("cafe\u0301", "café"),
        ("123 %s", ""),
        ("%(count)d", ""),
        ("", ""),
    ],
)
def test_cleaned_text(text: str, cleaned: str) -> None:
    assert message_text.clean(text) == cleaned


def test_repeats_differ_in_case_marks_and_spaces_only() -> None:
    assert message_text.make_key("Save  now!") == message_text.make_key("save Now")
    assert message_text.make_key("Straße") == message_text.make_key("STRASSE")
    # Vowel signs are combining characters, and make another word.
    assert message_text.make_key("कि") != message_text.make_key("की")
    assert message_text.make_key("...") == ""
