"""One module per file format. Start with `open.py`: which formats are tried for which targets, and in which order."""
