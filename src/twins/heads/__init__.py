"""Heads of the dense networks. Start with `fpn.py` (pyramid), then `semantic_fpn.py`, `retinanet.py` or `roi.py`."""
