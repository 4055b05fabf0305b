"""From image sets to batches. Start with `loader.py`; `sampler.py` chooses the images, `batch.py` stacks them."""
