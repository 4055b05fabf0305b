"""The operators of the networks: start with `windows` and `attention`; `dispatch` says which form of them computes."""
