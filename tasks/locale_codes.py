"""Codes of languages and scripts, from the folder names of gettext catalogues.

A code is a language, its script if that is not the usual one, and its region if that is not the
usual one: "de", "sr" (Cyrillic), "sr_Latn", "zh_Hant", "es_MX". CLDR, as Babel ships it, says
what is usual. Two exceptions follow gettext's practice: "pt" is European and "pt_BR" Brazilian
Portuguese, and both scripts of Chinese are named.
"""

from __future__ import annotations

import functools
import re

from babel.core import get_global
from fontTools import unicodedata as scripts

# Babel's aliases lack gettext's name for Norwegian Bokmal.
_ALIASES = {"no": "nb"}
_MODIFIERS = {"latin": "Latn", "latn": "Latn", "cyrillic": "Cyrl", "cyrl": "Cyrl"}
_LOCALE = re.compile(
    r"(?P<language>[A-Za-z]{2,3})(?:[_-](?P<script>[A-Za-z]{4}))?"
    r"(?:[_-](?P<region>[A-Za-z]{2}|\d{3}))?(?:\.[\w-]+)?(?:@(?P<modifier>\w+))?\Z"
)
# Scripts that are written with the characters of several of Unicode's scripts.
_MIXED_SCRIPTS = {
    "Jpan": {"Hani", "Hira", "Kana"},
    "Kore": {"Hang", "Hani"},
    "Hans": {"Hani"},
    "Hant": {"Hani"},
}


def find_code(name: str) -> str | None:
    """Returns the code of a locale that a folder names, such as "sr_Latn" for "sr@latin".

    Args:
      name: A locale as gettext or BCP 47 writes it: "pt_BR", "zh-Hans", "zh_TW.Big5".

    Returns:
      The code; None if it names no locale that CLDR knows, or a variant that is neither a
      script nor a region, such as "ca@valencia".
    """
    match = _LOCALE.match(name)
    if not match:
        return None
    language, script, region, modifier = match.groups()
    language = language.lower()
    language = _ALIASES.get(language) or get_global("language_aliases").get(language, language)
    region = region and region.upper()
    if modifier:
        if script or modifier.lower() not in _MODIFIERS:
            return None
        script = _MODIFIERS[modifier.lower()]
    return _make_code(language, script and script.title(), region)


def _make_code(language: str, script: str | None, region: str | None) -> str | None:
    """Returns the code without what is usual; None if CLDR does not know the language."""
    usual = _likely(language)
    if usual is None:
        return None
    if script is None:
        _, script, _ = (region and _likely(f"{language}_{region}")) or usual
    parts = [language]
    if script != usual[1] or language == "zh":
        parts.append(script)
    usual_region = "PT" if language == "pt" else (_likely("_".join(parts)) or usual)[2]
    if region is not None and region != usual_region:
        parts.append(region)
    return "_".join(parts)


def _likely(code: str) -> tuple[str, str, str] | None:
    """Returns CLDR's usual (language, script, region) of a code, or None if it has none."""
    found = get_global("likely_subtags").get(code)
    if found is None:
        return None
    language, script, region = [*found.split("_"), "", ""][:3]
    return language, script, region


def find_script(code: str) -> str:
    """Returns the ISO 15924 name of a code's script: "Latn" for "de", "Jpan" for "ja"."""
    parts = code.split("_")
    if len(parts) > 1 and len(parts[1]) == 4:
        return parts[1]
    usual = _likely(parts[0])
    return usual[1] if usual else ""


def is_in_script(text: str, script: str) -> bool:
    """Returns whether at least half of the letters of a text belong to a script.

    Args:
      text: Any text. Characters of all scripts, such as digits, do not count.
      script: ISO 15924 name, such as "Latn", or "Jpan" for kanji and kana.
    """
    own = _MIXED_SCRIPTS.get(script, {script})
    found = [name for name in map(_script_of, text) if name not in ("Zyyy", "Zinh", "Zzzz")]
    return 2 * sum(name in own for name in found) >= len(found) > 0


@functools.cache
def _script_of(character: str) -> str:
    return scripts.script(character)
