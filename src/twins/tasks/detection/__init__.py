"""Object detection with RetinaNet or Faster R-CNN. Start with `facts.py`, then `network.py`."""
