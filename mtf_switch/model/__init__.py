"""Whole models built from gin: the Transformer, its embedding, its optimizer and its FLOPs.

Nothing here reads data or runs a session.
"""
