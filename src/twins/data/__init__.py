"""Data sets, from files to batches. Start with `base.py` (what a set offers) and `formats/open.py` (who opens what)."""
