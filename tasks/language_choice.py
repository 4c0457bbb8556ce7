"""The languages of the multilingual text, and the check of a user's choice of them."""

from __future__ import annotations

from babel.core import get_global

from mtf_switch.errors import UserError, suggest_names
from tasks import locale_codes

# The languages with enough text in the packages that requirements-multilingual.txt pins.
LANGUAGES = (
    *("ar", "bg", "ca", "cs", "cy", "da", "de", "el", "en", "eo", "es"),
    *("es_AR", "et", "eu", "fa", "fi", "fr", "gl", "he", "hi", "hr", "hu"),
    *("id", "is", "it", "ja", "ka", "kn", "ko", "lt", "lv", "mk", "mn"),
    *("my", "nb", "ne", "nl", "pl", "pt", "pt_BR", "ro", "ru", "sk", "sl"),
    *("sq", "sr", "sr_Latn", "sv", "ta", "tr", "ug", "uk", "vi", "zh_Hans", "zh_Hant"),
)


def check_codes(codes: tuple[str, ...]) -> None:
    """Checks that codes are spelled as `locale_codes.find_code` spells them.

    Raises:
      UserError: If a code names no locale, or is spelled differently.
    """
    for code in codes:
        found = locale_codes.find_code(code)
        if found is None:
            known = get_global("likely_subtags")
            raise UserError(
                f"{code!r} is no locale that CLDR knows. Write a language, such as 'de', with "
                f"a script or a region if needed: 'sr_Latn', 'pt_BR'."
                f"{suggest_names(code, known)}"
            )
        if found != code:
            raise UserError(f"The locale {code!r} is called {found!r} here. Write {found!r}.")
