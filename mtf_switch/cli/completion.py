"""The flag --print_completion: a script with which a shell completes commands and flags.

shtab writes it from the argument parser. The script needs no Python when a user presses Tab.
"""

from __future__ import annotations

import argparse

from mtf_switch.cli import parser as parsers

SHELLS = ("bash", "zsh", "tcsh")

# The metavars of flags that take a folder, and of those that take a file.
_FOLDERS = ("D", "O", "DST")
_FILES = ("F", "FILE", "C", "SRC", "GLOB", "V")


class PrintCompletion(argparse.Action):
    """Prints the completion script for a shell, and ends the command."""

    def __call__(self, parser, namespace, shell, option_string=None) -> None:
        """Prints the script for the parser."""
        # Only this flag needs it.
        import shtab

        for command in parsers.list_commands(parser).values():
            for action in command._actions:
                if action.metavar in _FOLDERS:
                    action.complete = shtab.DIRECTORY
                elif action.metavar in _FILES:
                    action.complete = shtab.FILE
        print(shtab.complete(parser, shell))
        parser.exit()
