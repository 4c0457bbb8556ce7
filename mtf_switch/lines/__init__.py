"""Reads and writes the text files of `predict` and `score`, with one text per line.

Nothing here depends on a model: `mtf_switch.runs` decodes and scores the lines.
"""
