"""Image classification. Start with `facts.py`, then `network.py`."""
