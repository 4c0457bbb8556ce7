"""Distillation: a student learns from the probabilities of a teacher (Section 4.2).

Tables 6, 7 and 8 of the paper. docs/distillation.md explains the command.
"""
