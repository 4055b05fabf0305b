"""Training and evaluation of any task. Start with `loop.py`, the training loop, then `step.py` and `measure.py`."""
