"""Forms of the operators that are faster on a CPU; `twins.ops.dispatch` chooses them."""
