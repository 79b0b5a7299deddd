"""Fused operators. Importing this loads the compiled module `_C` into torch, or says in words why it cannot."""

from dna_fast.ops.depthwise import depthwise_conv2d
from dna_fast.ops.feature_mse import feature_mse
from dna_fast.ops.mbconv import (
    Affine,
    MBConvShape,
    MBConvWeights,
    mbconv,
    mbconv_depthwise,
    mbconv_project,
    mbconv_reduce,
)

__all__ = [
    "Affine",
    "MBConvShape",
    "MBConvWeights",
    "depthwise_conv2d",
    "feature_mse",
    "mbconv",
    "mbconv_depthwise",
    "mbconv_project",
    "mbconv_reduce",
]
