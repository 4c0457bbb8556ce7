"""Repairs faults of the installed packages when those packages are imported.

Nothing here adds a feature, and nothing here imports another part of mtf_switch.
"""
