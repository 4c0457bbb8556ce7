"""Gin files and bindings, read and turned into the settings of a run.

Nothing here knows a layer, a task, or how a run is made.
"""
