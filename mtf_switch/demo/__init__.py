"""The two demos: a sparse model beside its dense twin, and Table 4 at laptop size.

They use the same functions as the commands, and no package imports them.
"""
