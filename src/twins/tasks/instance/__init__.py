"""Instance segmentation with Mask R-CNN; builds on `tasks/detection`. Start with `facts.py`, then `network.py`."""
