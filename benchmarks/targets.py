"""What is aimed at, as data: each figure a ratio or a limit that one run on one machine decides."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A figure and what it means."""

    key: str
    area: str
    meaning: str
    at_least: bool  # or at most
    value: float
    unit: str  # "x", "ms", "%", ...

    @property
    def goal(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {shown(self.value, self.unit)}"

    def is_met(self, measured: float) -> bool:
        return measured >= self.value if self.at_least else measured <= self.value

    def verdict(self, measured: float | None) -> str:
        """In words, for the page."""
        if measured is None:
            return "not measured"
        if self.is_met(measured):
            return "met"
        return f"falls short: {self.figure(measured)} of {shown(self.value, self.unit)}"

    def figure(self, measured: float) -> str:
        """Three digits, or as many more as it takes for a near miss not to look like the target itself."""
        for digits in (3, 4, 5):
            if self.is_met(measured) or shown(measured, self.unit, digits) != shown(self.value, self.unit, digits):
                break
        return shown(measured, self.unit, digits)


def shown(value: float, unit: str, digits: int = 3) -> str:
    """A figure with its unit; trailing zeros behind the point are left out."""
    if unit == "relative":
        return f"{value:.{max(0, digits - 2)}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else 0
    number = f"{value:,.{decimals}f}"
    number = number.rstrip("0").rstrip(".") if "." in number else number
    return f"{number}{unit}" if unit in ("x", "/255") else f"{number} {unit}"


_SEARCH = "Search, 16-cell space, raw arrays of 23,046 candidates"
_LAYER = "MBConv layer, CPU, all layers of the 16-cell space x 6 operators, N = 32"
_LAYER_GPU = "MBConv layer, one GPU, bfloat16"
_DEPTHWISE = "Depthwise convolution, CPU, all depthwise layers of the 16-cell space"
_RATING = "Rating the cells 3x112 and 4x112 at 14 pixels, CPU, N = 32, 4 rated batches"
_TRAINING = "Training all 16 cells"
_TEACHER = "Teacher forward, EfficientNet-B7 at 224 pixels"

TARGETS = (
    Target("search.one_budget_ms", _SEARCH, "exact optimum under one budget", False, 2, "ms"),
    Target("search.one_budget_ratio", _SEARCH, "the same against CP-SAT on the raw arrays", True, 200, "x"),
    Target("search.front_ms", _SEARCH, "complete exact front of one cost", False, 3, "ms"),
    Target("search.three_budgets_ms", _SEARCH, "exact optimum under three budgets", False, 50, "ms"),
    Target("search.top_100_ms", _SEARCH, "the best 100, exact", False, 20, "ms"),
    Target("search.huge_gap", _SEARCH, "1e100 architectures, two budgets: proven gap after 1 s", False, 0.1, "%"),
    Target("mbconv.float32", _LAYER, "float32 against the best of all opponents, geometric mean", True, 2.2, "x"),
    Target("mbconv.bfloat16", _LAYER, "bfloat16 against the best of all opponents, geometric mean", True, 2.8, "x"),
    Target(
        "mbconv.worst",
        _LAYER,
        "the worst layer and dtype, all with the tuned allocator",
        True,
        1,
        "x",
    ),
    Target("mbconv.bound", _LAYER, "share of the counted bound, median", True, 85, "%"),
    Target("mbconv.one_image", _LAYER, "one image: two threads against one, geometric mean", True, 1.5, "x"),
    Target("rate.3x112", _RATING, "3x112 against mode official in plain PyTorch", True, 10, "x"),
    Target("rate.4x112", _RATING, "4x112 against the same", True, 12, "x"),
    Target("rate.agreement", _RATING, "largest relative difference of trie and per_path", False, 1e-5, "relative"),
    Target("rate.memory", _RATING, "peak memory under --max-memory as a share of that limit", False, 100, "%"),
    Target("mbconv.gpu", _LAYER_GPU, "against torch.compile(max-autotune), geometric mean", True, 2, "x"),
    Target("mbconv.gpu_floor", _LAYER_GPU, "share of the floor (least bytes or arithmetic)", True, 60, "%"),
    Target("feature_mse.same", "feature_mse", "CPU, one dtype: against eager, forward and backward", True, 1.5, "x"),
    Target("feature_mse.mixed", "feature_mse", "CPU, mixed dtypes: against eager", True, 2.5, "x"),
    Target("feature_mse.gpu", "feature_mse", "GPU: least bytes per second as a share of a copy's", True, 85, "%"),
    Target("depthwise.weight_float32", _DEPTHWISE, "the weight's gradient, float32", True, 3, "x"),
    Target("depthwise.weight_bfloat16", _DEPTHWISE, "the weight's gradient, bfloat16", True, 3, "x"),
    Target("depthwise.step_float32", _DEPTHWISE, "result and both gradients, float32", True, 2, "x"),
    Target("depthwise.step_bfloat16", _DEPTHWISE, "result and both gradients, bfloat16", True, 2, "x"),
    Target("training.sharing", _TRAINING, "one shared teacher pass against the released recipe", True, 4, "x"),
    Target("training.fused", _TRAINING, "with the fused teacher and loss as well", True, 5.5, "x"),
    Target("teacher.eager", _TEACHER, "CPU: against eager channels-last", True, 2, "x"),
    Target("teacher.compile", _TEACHER, "CPU: against torch.compile", True, 1.3, "x"),
    Target("teacher.gpu", _TEACHER, "GPU: against torch.compile", True, 1.5, "x"),
    Target("loader.speed", "Loader, 500x375 JPEGs, CPU", "against torchvision's faster loader", True, 1.5, "x"),
    Target(
        "loader.difference", "Loader, 500x375 JPEGs, CPU", "worst image's mean difference to timm", False, 2, "/255"
    ),
)
