"""Whole models, built from gin: the Transformer, its embedding and optimizer, and its FLOPs.

Nothing here reads data or runs a session.
"""
