"""Kernels for NVIDIA GPUs, written in Triton and registered as `torch.library` operators.

Start with `windows`, then `tiles`, the functions that kernels share. A kernel is imported at the first call on a GPU of
the function in `ops/` that defines its result, or of a block in `twins.backbone.fused`.

Names in kernels: a tile of `BLOCK_D` holds the `WIDTH` channels of a head, and one of `BLOCK_C` the `CHANNELS` of a
map; both are powers of two. `dx` is the gradient of `x`. `index` is the row of a token in a map seen as a matrix
`(B * H * W, C)`.
"""
