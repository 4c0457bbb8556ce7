"""Reads gin files and bindings, and turns them into the settings of a run.

Nothing here depends on a layer or a task, or executes a run.
"""
