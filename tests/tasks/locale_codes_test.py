"""Codes of languages and scripts from the names of folders."""

from __future__ import annotations

import pytest

from mtf_switch.errors import UserError
from tasks import language_choice, locale_codes


@pytest.mark.parametrize(
    ("folder", "code"),
    [
        ("de", "de"),
        ("de_DE", "de"),
        ("de-AT", "de_AT"),
        ("pt", "pt"),
        ("pt_PT", "pt"),
        ("pt_BR", "pt_BR"),
        ("sr", "sr"),
        ("sr_RS", "sr"),
        ("sr@latin", "sr_Latn"),
        ("sr@Latn", "sr_Latn"),
        ("sr-Latn", "sr_Latn"),
        ("sr@cyrl", "sr"),
        ("zh_CN", "zh_Hans"),
        ("zh_SG", "zh_Hans_SG"),
        ("zh_TW.Big5", "zh_Hant"),
        ("zh_HK", "zh_Hant_HK"),
        ("zh_Hant_TW", "zh_Hant"),
        ("zh", "zh_Hans"),
        ("no", "nb"),
        ("nb_NO", "nb"),
        ("iw", "he"),
        ("tl", "fil"),
        ("es_419", "es_419"),
        ("ca@valencia", None),  # neither a script nor a region
        ("LC_MESSAGES", None),
        ("xx", None),
        ("", None),
    ],
)
def test_a_folder_names_a_code(folder: str, code: str | None) -> None:
    assert locale_codes.find_code(folder) == code


def test_codes_are_their_own_names() -> None:
    from tasks.language_choice import LANGUAGES

    assert [locale_codes.find_code(code) for code in LANGUAGES] == list(LANGUAGES)
    assert tuple(sorted(set(LANGUAGES))) == LANGUAGES


@pytest.mark.parametrize(
    ("text", "script", "inside"),
    [
        ("Speichern", "Latn", True),
        ("Сачувај", "Cyrl", True),
        ("Sačuvaj", "Cyrl", False),
        ("Django を使う", "Jpan", False),  # 6 Latin letters against 3
        ("Django を使ってください", "Jpan", True),
        ("用户 API", "Hans", False),
        ("הורדה", "Hebr", True),
        ("हिन्दी में", "Deva", True),  # vowel signs belong to the script
        ("12.5", "Latn", False),  # no letter at all
    ],
)
def test_half_of_the_letters_decide_on_the_script(text: str, script: str, inside: bool) -> None:
    assert locale_codes.is_in_script(text, script) == inside


@pytest.mark.parametrize(
    ("code", "script"),
    [("de", "Latn"), ("sr", "Cyrl"), ("sr_Latn", "Latn"), ("ja", "Jpan"), ("zh_Hant", "Hant")],
)
def test_the_script_of_a_code(code: str, script: str) -> None:
    assert locale_codes.find_script(code) == script


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("qq", "'qq' is no locale that CLDR knows"),
        ("german", "'german' is no locale"),
        ("zh_TW", "'zh_TW' is called 'zh_Hant' here"),
        ("pt_PT", "'pt_PT' is called 'pt' here"),
    ],
)
def test_other_codes_are_refused(code: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        language_choice.check_codes(("de", code))
