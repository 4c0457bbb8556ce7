"""The two demos: a sparse model beside its dense twin, and a small version of Table 4.

They use what the commands use; nothing imports them.
"""
