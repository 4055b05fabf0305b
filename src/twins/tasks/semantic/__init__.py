"""Semantic segmentation with Semantic FPN or UPerNet. Start with `facts.py`, then `network.py`."""
