"""Transforms of images and targets. Start with `config.py`, then the file of a task, such as `classification.py`."""
