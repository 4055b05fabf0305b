"""Serving trained networks over HTTP. Start reading in `server.py`; `dispatcher.py` is the core.

One process answers HTTP and forms batches; worker processes decode images and run the networks. The first imports no
torch.
"""
