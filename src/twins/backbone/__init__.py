"""The Twins backbone: the networks of the paper without a task.

Start with `network`, from `Twins` down to `Block`; `attention` has the two attentions, `layers` the other parts, and
`config` the published variants. `fused` makes the form for inference and can be read last.
"""
