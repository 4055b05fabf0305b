"""The checks of `twins check`. Start with `scan.py`: one scan reads everything, and each task adds its checks."""
