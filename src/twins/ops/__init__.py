"""The operators of the networks, written in PyTorch's own; faster forms of them are in `cpu/` and `gpu/`.

Start with the paper's two attentions, `windows.window_attention` and `attention.attend_to_keys`, then read the table in
`dispatch`, which chooses the form that computes a call.
"""
