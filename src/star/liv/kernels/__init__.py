"""The numerical core of the LIVs: pure functions over tensors."""
