"""Loading photographs for training and for evaluation against torchvision (Pillow; its tensor decoder) and plain DALI, on the CPU.

Needs photographs: `--photos FOLDER`, a folder of class folders such as ImageNet's val; the files are read from the page cache.
All do the same work with two threads or processes: random-resized crop and flip, or resize and centre crop, bicubic with antialias, and
normalisation. Ours also shuffles and crops by seed, epoch and image.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from benchmarks.race import Pace
from benchmarks.replay import Report, tier_of
from benchmarks.worker import Races

WAYS = ("ours", "torchvision-pil", "torchvision-tensor", "dali-plain")
THREADS, SIZE, BATCH = 2, 224, 64
# At least so many, by reading images again: filling and draining a loader must not count, an epoch of ImageNet has 1.28 million.
EPOCH_IMAGES = {"quick": 1200, "full": 3200}
PACES = {"quick": Pace(turns=2, turn_s=0.0), "full": Pace(turns=3, turn_s=0.0)}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", ["training", "evaluation"])
def test_loader(kind: str, way: str, races: Races, report: Report, pytestconfig: pytest.Config) -> None:
    folder = pytestconfig.getoption("--photos")
    if folder is None:
        pytest.skip("needs photographs; run with --photos FOLDER, a folder of class folders")
    tier = tier_of(pytestconfig)
    found = sum(1 for path in Path(folder).glob("*/*") if path.is_file())
    if not found:
        pytest.fail(f"--photos {folder}: expected images in class folders, found none")
    work: dict[str, Any] = {"size": SIZE, "batch_size": BATCH, "threads": THREADS, "training": kind == "training"}
    request = work | {
        "folder": str(Path(folder).absolute()),
        "copies": -(-EPOCH_IMAGES[tier] // found),
        "ways": list(WAYS),
        "pace": asdict(PACES[tier]),
    }
    answer = races.run("loader", request)
    (entry,) = [e for e in answer["entries"] if e["way"] == way]
    report(f"loader {kind}", work | answer["facts"], entry)
