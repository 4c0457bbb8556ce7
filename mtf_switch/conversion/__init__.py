"""Converts checkpoints between transformers, T5X and Mesh TensorFlow.

Names, shapes and layouts of stored tensors belong here; training, evaluation and the command
line do not.
"""
