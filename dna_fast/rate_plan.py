"""How many prefixes of a trie are walked together, by the memory that is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

AVAILABLE_SHARE = (
    0.5  # of the memory that is free when rating begins: torch, the operating system and others need some, too
)


@dataclass(frozen=True)
class LayerBytes:
    """What one layer of a cell needs, for its largest operator."""

    features: int  # per prefix: both sets of images in front of the layer, and their covariance
    hidden: int  # per calibration image: the raw depthwise result
    output: int  # per image: the layer's output
    moments: int  # per calibration image: of both


@dataclass(frozen=True)
class Plan:
    """How a cell's trie is walked."""

    groups: tuple[int, ...]  # prefixes of a group in front of each layer
    slice_images: int  # calibration images that a call sees; all of them, or fewer of a single prefix

    def parts(self, depth: int, choices: int) -> tuple[int, int]:
        """How many prefixes in front of a layer, and how many of its operators, make one group behind it."""
        behind = self.groups[depth + 1]
        return max(1, behind // choices), min(behind, choices)


@dataclass(frozen=True)
class CellMemory:
    """Counts what walking a cell, one first operator after the other, keeps alive at once.

    Counted are features of all groups on the way down, their covariances, raw depthwise results, outputs and moments of the
    operator at work. Not counted are the images and teacher's features, the weights, what an operator needs inside, numbers per
    image or path, and, before a cell is walked, one batch in the stem or adapter.
    """

    layers: Sequence[LayerBytes]
    choices: int
    calibration_images: int
    rated_images: int

    def walk(self, width: int, slice_images: int) -> Plan:
        """The plan with groups of at most `width` prefixes. The first layer shows a single operator, so one prefix is behind it."""
        groups = [1]
        for depth in range(1, len(self.layers)):
            whole = min(groups[-1], width // self.choices) * self.choices  # 0: not even all operators of one prefix
            groups.append(1 if depth == 1 else whole or width)
        return Plan(tuple(groups), slice_images)

    def peak_bytes(self, plan: Plan) -> int:
        """The largest sum of what is alive, over all layers."""
        alive, peak, images = 0, 0, plan.slice_images
        for depth, (layer, group) in enumerate(zip(self.layers, plan.groups, strict=True)):
            alive += group * layer.features
            last = depth == len(self.layers) - 1
            behind = 0 if last else plan.groups[depth + 1]
            prefixes = group if last else plan.parts(depth, self.choices)[0]
            sliced = images < self.calibration_images
            # Of a single prefix, the outputs themselves are the features behind; several, and slices, are copied from there.
            copied = last or sliced or behind > 1
            calibrating = prefixes * images * (layer.hidden + layer.moments + (layer.output if copied else 0))
            calibrating += self.calibration_images * layer.moments if sliced else 0
            rating = prefixes * self.rated_images * layer.output if behind > 1 else 0
            features_behind = behind * self.layers[depth + 1].features if behind else 0
            peak = max(peak, alive + features_behind + max(calibrating, rating))
        return peak

    def plan(self, max_bytes: int) -> Plan:
        """The widest walk that fits: level by level if all of a first operator's prefixes do, depth first if not, a single prefix
        with its calibration images in slices as the last resort.

        Raises:
            ValueError: not even that fits; the message says what would.
        """
        images = self.calibration_images
        widest = self.choices ** max(0, len(self.layers) - 2)  # the prefixes in front of the last layer
        width = _largest(widest, lambda width: self.peak_bytes(self.walk(width, images)) <= max_bytes)
        if width:
            return self.walk(width, images)
        slice_images = _largest(images, lambda some: self.peak_bytes(self.walk(1, some)) <= max_bytes)
        if slice_images:
            return self.walk(1, slice_images)
        one_by_one, at_once = (self.peak_bytes(self.walk(1, some)) for some in (1, images))
        raise ValueError(
            f"needs {one_by_one:,} bytes for one path with its calibration images one by one ({at_once:,} for all at once), got "
            f"{max_bytes:,}; allow more (rate.max_memory, --max-memory), or rate and calibrate with fewer images"
        )


def available_bytes(device: torch.device) -> int:
    """What rating may take where nothing else is said: a share of the device's free memory."""
    if device.type == "cuda":
        return int(AVAILABLE_SHARE * torch.cuda.mem_get_info(device)[0])
    return int(AVAILABLE_SHARE * min(_free_host_bytes(), _free_group_bytes()))


def _free_host_bytes() -> int:
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass  # not Linux
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _free_group_bytes() -> float:
    """What a container's limit leaves, as version 2 of control groups tells it inside; infinite where it does not."""
    try:
        group = Path("/sys/fs/cgroup")
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        # Pages of files that were read count as used, and are given back when others want them.
        return float("inf") if limit == "max" else max(0, int(limit) - used + int(stat.get("inactive_file", 0)))
    except (OSError, ValueError):
        return float("inf")


def _largest(upper: int, fits: Callable[[int], bool]) -> int:
    """The largest number in 1..upper that fits, 0 if none does; whatever is below a number that fits, fits."""
    low, high = 0, upper
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low
