"""Weight files. Start with `loading.py`, which loads one strictly; `dialects.py` has the key layouts as tables.

`networks.py` finds the network in a training checkpoint.
"""
