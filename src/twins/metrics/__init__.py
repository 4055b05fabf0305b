"""The metrics of all tasks. Start with `classification.py`; detection follows COCO, and TIDE for its error types."""
