"""Trains, evaluates and uses one model.

The files of a run are in `model_dirs`, and those of lines of text in `lines`.
Task metrics and comparisons of models are in `downstream`.
"""
