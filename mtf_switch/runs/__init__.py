"""Trains, evaluates and uses one model, and reads and writes the files of its run.

Task metrics and comparisons of models are in `downstream`.
"""
