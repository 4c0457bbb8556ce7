"""Decodes the answers of fine-tuned models, scores them, and compares models.

Training and negative log perplexity are in `runs`, not here.
"""
