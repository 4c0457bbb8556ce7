"""Catalogues in the pinned wheels and in files of the user."""

from __future__ import annotations

from pathlib import Path

import hand_catalogues
import pytest

from mtf_switch.errors import UserError
from tasks import catalogue_files
from tasks.catalogue_files import Catalogues


@pytest.mark.parametrize(
    ("path", "locale"),
    [
        ("django/conf/locale/de/LC_MESSAGES/django.po", "de"),
        ("locales/sr@Latn/LC_MESSAGES/plone.po", "sr@Latn"),
        ("locales/fu/LC_MESSAGES/plone.po", "fu"),  # it names a locale that does not exist
        ("i18n/pt_BR.po", "pt_BR"),
        ("po/de/man1/ps.1.po", "de"),
        ("po/de/messages.po", "de"),
        ("de/some/project/messages.po", ""),  # only two folders are looked at
    ],
)
def test_the_path_names_the_locale(path: str, locale: str) -> None:
    assert catalogue_files.find_locale(path) == locale


def test_missing_wheels_are_named_with_the_command_that_adds_them(tmp_path: Path) -> None:
    (tmp_path / "django-0.1-py3-none-any.whl").write_bytes(b"")  # another version
    with pytest.raises(UserError, match=r"lacks ckan .*django .*make install-multilingual"):
        Catalogues(folder=tmp_path).paths()


def test_pinned_wheels_are_read_in_a_fixed_order(tmp_path: Path, monkeypatch) -> None:
    pins = tmp_path / "pins.txt"
    pins.write_text("b-b==2.0  # via\na==1.0\n")
    monkeypatch.setattr(catalogue_files, "REQUIREMENTS", pins)
    for name in ("b_b-2.0", "a-1.0", "c-1.0"):  # c is not pinned
        places = [f"{name[0]}/locale/{code}/LC_MESSAGES/x.po" for code in ("fr", "de")]
        files = {place: hand_catalogues.format_po({"Save": "x"}) for place in places}
        hand_catalogues.write_wheel(tmp_path, {**files, "x/readme.txt": ""}, name)
    catalogues = Catalogues(folder=tmp_path)
    assert catalogues.versions() == {"a": "1.0", "b-b": "2.0"}
    assert [file.place.split("/LC")[0] for file in catalogues.read()] == [
        *("a-1.0: a/locale/de", "a-1.0: a/locale/fr"),
        *("b_b-2.0: b/locale/de", "b_b-2.0: b/locale/fr"),
    ]
    assert catalogues.count() == 4
    assert set(catalogues.licences().values()) == {"MIT"}


def test_files_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "po").mkdir()
    (tmp_path / "po" / "de.po").write_text(hand_catalogues.format_po({"Save": "Speichern"}))
    (tmp_path / "po" / "de.txt").write_text("no catalogue")
    catalogues = Catalogues((str(tmp_path / "**/*"),))
    assert [file.locale for file in catalogues.read()] == ["de"]
    before = catalogues.identity()
    (tmp_path / "po" / "de.po").write_text(hand_catalogues.format_po({"Save": "Sichern"}))
    assert catalogues.identity() != before


def test_of_a_path_the_locale_and_the_order_decide(tmp_path: Path) -> None:
    def identify(folder: str, *names: str) -> dict:
        for number, name in enumerate(names):
            path = tmp_path / folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(hand_catalogues.format_po({"Save": f"text {number}"}))
        return Catalogues((str(tmp_path / folder / "**/*"),)).identity()

    before = identify("1", "german.po", "fr.po")
    assert identify("2", "german.po", "fr.po") == before
    renamed = identify("3", "de.po", "fr.po")
    assert renamed != before
    assert identify("4", "fr.po", "de.po") != renamed
    # Documents are made of consecutive messages.
    assert identify("5", "a/de.po", "b/de.po") != identify("6", "b/de.po", "a/de.po")


def test_a_renamed_wheel_is_the_same(tmp_path: Path) -> None:
    wheel = hand_catalogues.write_wheel(tmp_path, {"x/locale/es/LC_MESSAGES/x.po": "x"})
    catalogues = Catalogues((str(tmp_path / "*"),))
    before = catalogues.identity()
    wheel.rename(tmp_path / "de.whl")
    assert catalogues.identity() == before


def test_bad_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"matches no \.po file and no wheel"):
        Catalogues((str(tmp_path / "*.po"),)).paths()
    (tmp_path / "a-1.0-py3-none-any.whl").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"cannot be read .*make install-multilingual"):
        list(Catalogues((str(tmp_path / "*.whl"),)).read())
