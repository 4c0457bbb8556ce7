"""Decoded answers, their metrics, and comparisons of models on downstream tasks.

Nothing here trains a model or evaluates perplexity.
"""
