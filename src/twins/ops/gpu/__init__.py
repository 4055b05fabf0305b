"""Kernels for NVIDIA GPUs, written in Triton and registered as `torch.library` operators.

Each stands behind the function of `ops/` that defines what it computes, and is loaded when that function first meets
a tensor on a GPU. Those of blocks stand behind the blocks of `twins.backbone.fused`.
"""
