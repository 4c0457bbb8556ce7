"""The exception for mistakes that a user can fix, and how commands report it."""

from __future__ import annotations

import difflib
import errno
import os
import sys
from collections.abc import Callable, Iterable, Sequence

# A full disk or an exhausted quota. Any write can fail with one of these.
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
# How the chain of calls begins that gin appends to every message that passes through it.
GIN_TRACE = "\n  In call to configurable"


class UserError(Exception):
    """A mistake in the user's input. The message states the rule, the values and the fix.

    Attributes:
      exit_code: The exit code of the command that raises it.
    """

    exit_code = 1


class TooLargeError(UserError):
    """A model that does not fit into the memory of a core, by the judgement of a compiler."""

    exit_code = 3


class Interrupted(BaseException):
    """A signal ended the command. Like KeyboardInterrupt, it passes `except Exception`."""

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.exit_code = 128 + signal_number


def run_command(
    command: Callable[[], None], program: str, hint: str = "", when_interrupted: str = ""
) -> int:
    """Runs a command, and reports a UserError or a full disk in one message.

    Args:
      command: The function to run.
      program: Name of the program, for the message.
      hint: Text to add to each message.
      when_interrupted: Text to print after "Stopped." if the user presses Ctrl-C.

    Returns:
      The exit code: 0 for success, that of a UserError (mostly 1), 1 after a full disk, 130
      after Ctrl-C, and 128 plus the signal number after `Interrupted`.
    """
    try:
        command()
    except UserError as error:
        message = str(error).split(GIN_TRACE)[0]
        print(f"{program}: {message} {hint}".rstrip(), file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if error.errno not in _DISK_FULL:
            raise
        print(
            f"{program}: {error.filename or 'A file'} cannot be written: {error.strerror}. "
            f"Free some space; the same command starts again. {hint}".rstrip(),
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        if not _is_of_network(error):
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".")
        print(
            f"{program}: The network cannot be used: {reason}. {hint}".rstrip(), file=sys.stderr
        )
        return 1
    except KeyboardInterrupt:
        print(f"Stopped. {when_interrupted}".rstrip(), file=sys.stderr)
        return 130
    except Interrupted as stopped:
        print(f"{stopped} {when_interrupted}".rstrip(), file=sys.stderr)
        return stopped.exit_code
    return 0


def _is_of_network(error: Exception) -> bool:
    """Whether TensorFlow could not reach an address such as gs://bucket/folder."""
    return type(error).__module__.startswith("tensorflow.") and "HTTP request" in str(error)


def name_program() -> str:
    """Returns the name by which this program was called, for hints that name a command.

    It is "mtf_switch" for the command of an installed package, else "run_switch.py".
    """
    is_installed = os.path.basename(sys.argv[0]) == "mtf_switch"
    return "mtf_switch" if is_installed else "run_switch.py"


def not_utf8(path: str, error: UnicodeDecodeError) -> UserError:
    """Returns the error for a file that is not utf-8.

    Args:
      path: The path of the file.
      error: Python's error, of the whole content of the file. The message has the line, and a
        command that converts the file.
    """
    content: bytes = error.object
    line = content.count(b"\n", 0, error.start) + 1
    is_utf16 = content.startswith((b"\xff\xfe", b"\xfe\xff"))
    encoding = "UTF-16" if is_utf16 else "LATIN1"
    stem, ending = os.path.splitext(path)
    return UserError(
        f"{path}, line {line}: it is not utf-8 (byte 0x{content[error.start]:02x}). If it is "
        f"{encoding}, convert it: iconv -f {encoding} -t UTF-8 '{path}' > "
        f"'{stem}.utf8{ending}'."
    )


def suggest_names(name: str, known: Iterable[str], count: int = 3) -> str:
    """Suggests known names that resemble an unknown one.

    Returns:
      A sentence such as " The nearest names are: a, b.", or "" if no name is similar.
    """
    close = difflib.get_close_matches(name, list(known), n=count, cutoff=0.5)
    return f" The nearest names are: {', '.join(close)}." if close else ""


def join_first(items: Sequence[str], count: int = 3) -> str:
    """Joins the first few items for a message: "a; b; c, and 2 more"."""
    more = f", and {len(items) - count} more" if len(items) > count else ""
    return "; ".join(items[:count]) + more


def nearest_divisors(number: int, target: int) -> str:
    """Returns the nearest divisors of `number` below and above `target`, as text.

    For example, `nearest_divisors(12, 5)` is "4 and 6".
    """
    divisors = [d for d in range(1, number + 1) if number % d == 0]
    below = [str(d) for d in divisors if d < target][-1:]
    above = [str(d) for d in divisors if d > target][:1]
    return " and ".join(below + above)
