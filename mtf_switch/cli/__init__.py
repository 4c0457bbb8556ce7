"""The command line: one file for each command, with its flags and its action.

No other part of the project imports from here.
"""
