"""What a model_dir holds besides its configuration: checkpoints, vocabulary, log and lock.

Nothing here knows a model or a task; what trains or evaluates one belongs in `mtf_switch.runs`.
"""
