"""Cleans the texts of gettext catalogues of markup and placeholders."""

from __future__ import annotations

import functools
import html
import re
import unicodedata

_MARKUP = re.compile(
    r"""
      </?[A-Za-z][^<>]*>                    # <b>, </a>, <a href="...">
    | <!--.*?-->                            # comments
    | \{%.*?%\} | \{\{.*?\}\} | \{\#.*?\#\}  # Django's and Jinja's templates
    | :[\w.+-]+:(?=`)                       # roles of reStructuredText
    | \]\([^)\s]*\)                         # the address of a link in Markdown
    | [`*|]{1,2}                            # emphasis and literals
    | \w+://[^\s<>"')\]]+                   # addresses
    | [\w.+-]+@[\w-]+\.[\w.-]+              # addresses of mail
    """,
    re.VERBOSE | re.DOTALL,
)
_PLACEHOLDER = re.compile(
    r"""
      %\([^)]*\)[#0\- +]*[\d.]*[a-zA-Z]      # %(name)s
    | %(?:\d+\$)?[#0\-+]*[\d.]*[sdifgrxXuc]\b  # %s, %5.1f, %1$s
    | \$?\{[^{}\s]*\}                       # ${name}, {name}, {0}
    | \$[A-Za-z_]\w*                        # $name
    | %%
    """,
    re.VERBOSE,
)
# An accelerator marks one letter of a menu: "&File". A single "&" stays.
_ACCELERATOR = re.compile(r"&(?=\w)")
# Marks of direction, and characters that are not text. The joiners U+200C and U+200D stay:
# Persian and the scripts of India spell words with them.
_INVISIBLE = re.compile("[\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff\u00ad\u200b]")
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
_SPACE_BEFORE_MARK = re.compile(r"\s+(?=[.,;)\]](?:\s|\Z))")
_EMPTY_BRACKETS = re.compile(r"\(\s*\)|\[\s*\]|\"\s*\"|'\s*'|“\s*”|«\s*»|„\s*“")


@functools.lru_cache(maxsize=100_000)  # every catalogue of a project has the same English texts
def clean(text: str) -> str:
    """Returns a text in NFC without markup, placeholders, marks of direction and line breaks.

    Args:
      text: A message or its translation.

    Returns:
      The text; "" if no letter is left.
    """
    text = html.unescape(html.unescape(text))
    text = _PLACEHOLDER.sub(" ", _MARKUP.sub(" ", text))
    text = _INVISIBLE.sub("", _ACCELERATOR.sub("", text))
    text = _CONTROL.sub(" ", text)
    text = _EMPTY_BRACKETS.sub(" ", unicodedata.normalize("NFC", text))
    text = _SPACE_BEFORE_MARK.sub("", " ".join(text.split())).strip()
    return text if any(map(str.isalpha, text)) else ""


@functools.lru_cache(maxsize=100_000)
def make_key(text: str) -> str:
    """Returns a text without case, marks and spaces: texts with equal keys count as repeats.

    The key of a text without a letter or digit is "".
    """
    folded = unicodedata.normalize("NFKC", text).casefold()
    # Combining characters are a part of words in many scripts.
    return "".join(c for c in folded if c.isalnum() or unicodedata.category(c)[0] == "M")
