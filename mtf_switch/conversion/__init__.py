"""Checkpoints of transformers, T5X and Mesh TensorFlow, converted into one another.

Names, shapes and layouts of tensors live here; training and evaluation do not.
"""
