"""The files of a model_dir besides its configuration: checkpoints, vocabulary, log and lock.

Nothing here depends on a model or a task: `mtf_switch.runs` trains and evaluates models.
"""
