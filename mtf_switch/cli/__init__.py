"""The command line: one file for each command, with its flags and its action together.

Nothing else of the project imports from here.
"""
