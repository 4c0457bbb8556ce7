from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tasks import docstring_extractor

PROSE = (
    "Returns the number of the {} that is given, or zero if there is none of that kind in "
    "the list, as it is for every list that was not filled by the caller."
)


def test_docstrings_come_in_the_order_of_the_file_from_wherever_one_can_stand():
    module, cls, method, conditional, coroutine, handler = (
        PROSE.format(name)
        for name in ("module", "class", "method", "conditional", "coroutine", "handler")
    )
    source = f'''"""{module}"""
class C:
    """{cls}"""
    def method(self):
        """{method}"""
        return lambda: 1
if C:
    def conditional():
        """{conditional}"""
try:
    async def coroutine():
        """{coroutine}"""
except ValueError:
    def handler():
        """{handler}"""
x = """{PROSE.format("string that documents nothing")}"""
'''
    assert docstring_extractor.extract_docstrings(source.encode()) == [
        ("", module),
        ("C", cls),
        ("C.method", method),
        ("conditional", conditional),
        ("coroutine", coroutine),
        ("handler", handler),
    ]


def test_indentation_is_cleaned():
    source = f'def f():\n    """{PROSE}\n\n    Args:\n      x: one.\n    """\n'
    assert docstring_extractor.extract_docstrings(source.encode()) == [
        ("f", f"{PROSE}\n\nArgs:\n  x: one.")
    ]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Returns the number of things.", "too few words"),
        (PROSE + " 0123456789 ----------" * 12, "too few letters"),
        ("alpha beta gamma delta epsilon " * 6, "no function word"),
        (PROSE + " \ud800", "a lone surrogate, which utf-8 cannot hold"),
    ],
)
def test_text_that_is_not_prose_is_dropped(text, reason):
    assert docstring_extractor.is_prose(PROSE)
    assert not docstring_extractor.is_prose(text), reason


@pytest.mark.parametrize("source", [b"def f(:", b'"""\x00"""', b"\xff", b"print 'python 2'"])
def test_a_file_that_does_not_parse_has_no_docstrings(source):
    assert docstring_extractor.extract_docstrings(source) == []


def test_a_file_too_large_to_be_written_by_hand_is_skipped(monkeypatch):
    source = f'"""{PROSE}"""'.encode()
    monkeypatch.setattr(docstring_extractor, "MAX_SOURCE_BYTES", len(source))
    assert docstring_extractor.extract_docstrings(source) == [("", PROSE)]
    assert docstring_extractor.extract_docstrings(source + b" ") == []


def test_as_a_script_it_answers_for_each_path_even_a_missing_one(tmp_path):
    documented = tmp_path / "documented.py"
    documented.write_text(f'"""{PROSE}"""')
    answer = subprocess.run(
        [sys.executable, "-I", "-S", docstring_extractor.__file__],
        input=json.dumps([str(tmp_path / "missing.py"), str(documented)]),
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(answer.stdout) == [[], [["", PROSE]]]
