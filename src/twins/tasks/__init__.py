"""The tasks, a package each, and what they share. Start with `facts.py` and `contract.py`."""
