"""Reads one gettext catalogue (.po) with Babel's parser.

Fuzzy entries, whose translation belongs to an earlier version of the message, and obsolete
entries are skipped.
"""

from __future__ import annotations

import io
import re
from dataclasses import dataclass

from babel.messages import pofile
from babel.messages.catalog import Message

from tasks import message_text

# Obsolete entries, the earlier text of fuzzy ones, and dates in the header. Nothing of these is
# used, and real catalogues have some that Babel's parser refuses.
_UNUSED_LINES = re.compile(rb"(?m)^(?:#[~|].*|\"(?:POT-Creation|PO-Revision)-Date:.*)$")
# Some catalogues have more forms than their header says. No language has more than six.
_PLURAL_RULE = re.compile(rb"(?m)^\"Plural-Forms:.*$")
_SIX_FORMS = rb'"Plural-Forms: nplurals=6; plural=0;\\n"'
# Plone's catalogues identify a message by a name, and its English text is in a comment.
_DEFAULT_TEXT = re.compile(r"\s*Default:\s*\"(.*)\"\s*\Z", re.DOTALL)
_NAME = re.compile(r"[\w${}/]+(?:[_.:/-][\w${}/]+)+\Z")


class CatalogueError(ValueError):
    """A file is no gettext catalogue that can be read."""


@dataclass(frozen=True)
class Translation:
    """A message and its translation, both cleaned; see `message_text.clean`.

    Attributes:
      message: What identifies the message in its project: its first English text, or a name.
        The context is not a part of it, so the same text in two contexts is one message.
      sources: The English texts: one, or singular and plural; () if only a name is known.
      texts: The translations of all plural forms; () if there is none.
    """

    message: str
    sources: tuple[str, ...]
    texts: tuple[str, ...]


def read(content: bytes) -> list[Translation]:
    """Reads a catalogue.

    Args:
      content: The content of a .po file.

    Returns:
      The messages in their order in the file, whether or not they are translated.

    Raises:
      CatalogueError: If the file cannot be parsed.
    """
    content = _PLURAL_RULE.sub(_SIX_FORMS, _UNUSED_LINES.sub(b"", content))
    try:
        catalogue = pofile.read_po(io.BytesIO(content), abort_invalid=True)
    # The parser has its own error for the syntax, and any of these for a header or an escape.
    except (pofile.PoFileError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise CatalogueError(str(error) or type(error).__name__) from error
    return [_convert(message) for message in catalogue if message.id]


def _convert(message: Message) -> Translation:
    ids = _as_tuple(message.id)
    texts = () if message.fuzzy else _as_tuple(message.string)
    return Translation(ids[0], _clean_all(_find_sources(message, ids)), _clean_all(texts))


def _find_sources(message: Message, ids: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the English texts of a message: its ids, unless these are names."""
    default = _DEFAULT_TEXT.match(" ".join(message.auto_comments))
    if default:
        return (default[1].replace('\\"', '"').replace("\\n", "\n"),)
    return () if _NAME.match(ids[0]) else ids


def _as_tuple(texts: str | tuple | list | None) -> tuple[str, ...]:
    return (texts,) if isinstance(texts, str) else tuple(text for text in texts or () if text)


def _clean_all(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the distinct cleaned texts that are not empty."""
    return tuple(dict.fromkeys(filter(None, map(message_text.clean, texts))))
