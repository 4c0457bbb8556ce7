"""Training, evaluation and prediction of one model, and the files that they read and write.

Task metrics and comparisons of models live in `downstream`.
"""
