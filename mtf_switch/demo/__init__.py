"""The two demos: a sparse model beside its dense twin, and Table 4 at the size of a laptop.

They use what the commands use, and no package imports them.
"""
