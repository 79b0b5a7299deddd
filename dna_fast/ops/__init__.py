"""Fused operators. Importing this loads the compiled module `_C` into torch, or says in words why it cannot."""

from dna_fast.ops.feature_mse import feature_mse

__all__ = ["feature_mse"]
