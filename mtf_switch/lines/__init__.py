"""Files with a text in each line, which `predict` and `score` read and write.

Nothing here knows a model; what decodes or scores the lines belongs in `mtf_switch.runs`.
"""
