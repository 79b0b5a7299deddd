"""How wide a trie is walked: bytes counted by hand, and every plan within its bound."""

from pathlib import Path

import pytest
import torch

from dna_fast.rate_plan import CellMemory, LayerBytes, Plan, available_bytes

# Three layers, 3 operators, 10 calibration and 6 rated images.
MEMORY = CellMemory([LayerBytes(1000, 60, 5, 10), LayerBytes(100, 20, 3, 2), LayerBytes(160, 30, 4, 3)], 3, 10, 6)
DEEP = CellMemory([LayerBytes(1000, 60, 5, 10), *[LayerBytes(100, 20, 3, 2)] * 4], 6, 10, 6)


@pytest.mark.parametrize(
    ("width", "slice_images", "groups", "peak"),
    [
        # Depth first: a single prefix everywhere; its outputs are the next features. At the last layer three sets of features,
        # and per calibration image 30 of hidden, 4 of output, 3 of moments.
        (1, 10, (1, 1, 1), 1000 + 100 + 160 + 10 * (30 + 4 + 3)),
        # One calibration image at a time, and moments of all.
        (1, 1, (1, 1, 1), 1000 + 100 + 160 + (30 + 4 + 3) + 10 * 3),
        # Two operators of one prefix, then the third.
        (2, 10, (1, 1, 2), 1000 + 100 + 2 * 160 + 2 * 10 * 37),
        (3, 10, (1, 1, 3), 1000 + 100 + 3 * 160 + 3 * 10 * 37),
    ],
)
def test_bytes_by_hand(width: int, slice_images: int, groups: tuple[int, ...], peak: int) -> None:
    plan = MEMORY.walk(width, slice_images)
    assert plan == Plan(groups, slice_images)
    # The first layer's own peak is higher where calibration is not sliced and groups are narrow.
    first = 1000 + 100 + (10 * (60 + 10) if slice_images == 10 else (60 + 5 + 10) + 10 * 10)
    assert MEMORY.peak_bytes(plan) == max(peak, first)


def test_widths_of_a_deep_cell() -> None:
    assert DEEP.walk(1000, 10).groups == (1, 1, 6, 36, 216)
    assert DEEP.walk(50, 10).groups == (1, 1, 6, 36, 48)
    assert DEEP.walk(6, 10).groups == (1, 1, 6, 6, 6)
    assert DEEP.walk(4, 10).groups == (1, 1, 4, 4, 4)
    assert DEEP.walk(50, 10).parts(3, 6) == (8, 6)
    assert DEEP.walk(4, 10).parts(3, 6) == (1, 4)
    assert CellMemory(DEEP.layers[:1], 6, 10, 6).walk(1, 10).groups == (1,)


@pytest.mark.parametrize("memory", [MEMORY, DEEP], ids=["three_layers", "five_layers"])
def test_the_widest_plan_within_the_bound(memory: CellMemory) -> None:
    least = memory.peak_bytes(memory.walk(1, 1))
    widest = memory.choices ** (len(memory.layers) - 2)
    plans = set()
    for bound in range(least, memory.peak_bytes(memory.walk(widest, 10)) + 50, 7):
        plan = memory.plan(bound)
        plans.add(plan)
        assert memory.peak_bytes(plan) <= bound
        wider = [memory.walk(width, 10) for width in range(1, widest + 1)]
        fitting = [w.groups for w in wider if memory.peak_bytes(w) <= bound]
        assert plan.groups == max(fitting, default=(1,) * len(memory.layers))
        assert (plan.slice_images == 10) == bool(fitting)
    assert len(plans) >= 10
    assert memory.plan(10**12) == memory.walk(widest, 10)


def test_too_little_memory_says_what_is_needed() -> None:
    least = MEMORY.peak_bytes(MEMORY.walk(1, 1))
    with pytest.raises(
        ValueError, match=rf"needs {least:,} bytes .* \(1,800 for all at once\), got {least - 1:,}; allow"
    ):
        MEMORY.plan(least - 1)
    MEMORY.plan(least)


def test_a_container_leaves_what_pages_of_files_take(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count as used, though nobody needs them; and half of what is left is taken."""
    files = {"memory.max": "1000\n", "memory.current": "900\n", "memory.stat": "anon 200\ninactive_file 600\n"}
    monkeypatch.setattr(Path, "read_text", lambda path, encoding: files.get(path.name, "MemAvailable: 8 kB\n"))
    assert available_bytes(torch.device("cpu")) == (1000 - 900 + 600) // 2
    files["memory.max"] = "max\n"
    assert available_bytes(torch.device("cpu")) == 8 * 1024 // 2


def test_half_of_what_is_free_is_available() -> None:
    with open("/proc/meminfo", encoding="ascii") as file:
        total = next(int(line.split()[1]) * 1024 for line in file if line.startswith("MemTotal:"))
    assert 0 < available_bytes(torch.device("cpu")) <= total // 2
