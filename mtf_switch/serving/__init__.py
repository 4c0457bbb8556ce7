"""Exports a trained model as a TensorFlow SavedModel, which needs no code of this project."""
