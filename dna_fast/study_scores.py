"""A score that needs neither training nor data nor weights: what a search has to beat."""

from __future__ import annotations

import math

from dna_fast.architecture import Architecture
from dna_fast.space import MBConvSpec


def entropy(arch: Architecture) -> float:
    """Upper bound on the entropy of the network's feature map under Gaussian weights; more is held to be better.

    log(channels x pixels of the last feature map) x sum over convolutions of log(in_channels x kernel^2 / groups). Stem and
    head convolutions count; squeeze-excite and residuals do not. There is nothing to fit or to tune in it.

    Twice the score of the authors' released code (tinynas/scores/compute_deepmad.py of alibaba/lightweight-neural-architecture-search),
    which takes deviations where this takes variances, for the last of its stages alone: their weights of stages (1, 1, 1, 1, 8 on
    ImageNet) are chosen by hand.

    Source: Shen et al., DeepMAD (CVPR 2023), arXiv 2303.02165, the normalised Gaussian entropy of a CNN.
    """
    frame, size = arch.frame, arch.frame.stem_size
    total = math.log(3 * 9) + math.log(9) + math.log(frame.stem_channels)
    for spec in (spec for layers in arch.blocks for spec in layers):
        total += _layer_entropy(spec)
        size = math.ceil(size / spec.stride)
    total += math.log(arch.blocks[-1][-1].out_channels)
    return math.log(frame.head_channels * size**2) * total


def _layer_entropy(spec: MBConvSpec) -> float:
    # conv_pw reads in_channels, conv_dw one channel per group, conv_pwl mid_channels
    return math.log(spec.in_channels) + math.log(spec.kernel**2) + math.log(spec.mid_channels)
