"""Repairs of the installed packages, made as those are imported: one file for each package.

Only faults of those packages are mended here; features live elsewhere.
"""
