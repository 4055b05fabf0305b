"""Data sets, from files to batches. Start with `base.py` (the interface of a set), then `formats/open.py`."""
