"""Networks as files: graphs, their formats, their descriptions, and the sessions that run them.

Start with `write`, which writes a graph as a file, and `sessions`, which opens one. `layout` lays a network out for a
runtime, `graph` adds normalisation and decoding, and `comparison` measures how outputs differ.
"""
