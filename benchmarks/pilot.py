"""Does the rating order networks of equal macs on real photographs? A small study on CIFAR-10, an hour on a CPU.

    python -m benchmarks.pilot /path/to/cifar10 --out runs/pilot

The folder holds train/ and test/ (`dna-fast data cifar10` writes it). Twenty architectures of one bucket of macs are trained by one recipe. Their
accuracies judge the ratings of the supernet as configured, and one attempt each at better ones. Writes benchmarks/results/pilot-<date>.json; goes
on where it was interrupted.
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import FOLDER
from dna_fast.about import facts
from dna_fast.provenance import revision
from dna_fast.study import Models, study
from dna_fast.tables import RatingTable

CONFIG = Path(__file__).with_name("cifar10_pilot.yaml")
TRAIN_PER_CLASS, MODELS, MACS, RESAMPLES = 500, 20, (3_000_000, 3_300_000), 5000
TEACHER = ("teacher.safetensors", "teacher_training.json")

# What is tried beside the configuration; a variant whose keys are all of rate's takes the same supernet.
VARIANTS: dict[str, tuple[str, ...]] = {
    "mse": ("rate.metric=mse",),
    "relative_mse": ("rate.metric=relative_mse",),
    "calibration x4": ("rate.calibration_images=2000",),
    "wide": ("supernet.boundary=wide",),
    "epochs x2": ("train.epochs=16",),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", type=Path, help="CIFAR-10 as a folder with train/ and test/")
    parser.add_argument("--out", type=Path, default=Path("runs/pilot"))
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    lists = write_lists(arguments.images.resolve(), out)
    base, timings = out / "base", dict[str, float]()
    timings["teacher and supernet"] = dna_fast("train", str(CONFIG), "--out", str(base), *lists)
    timings["rating"] = dna_fast("rate", str(base))
    low, high = MACS
    sampled = ("--sample", str(MODELS), "--buckets", "1", "--between", f"{low},{high}")
    timings["training the networks"] = dna_fast("study", str(base), *sampled)
    ratings = {"rating": summed(base, base)}
    for name, changes in VARIANTS.items():
        run = out / name.replace(" ", "_")
        timings[name] = rate_variant(base, run, changes, lists)
        ratings[name] = summed(run, base)
    path = FOLDER / f"pilot-{datetime.date.today()}.json"
    path.write_text(json.dumps(record(base, ratings, timings), indent=1) + "\n", encoding="utf-8")
    print(path)
    return 0


def write_lists(images: Path, out: Path) -> list[str]:
    """The first images of every class by name, and all that networks are judged by; returns the options that name the lists."""
    out.mkdir(parents=True, exist_ok=True)
    classes = sorted(p.name for p in (images / "train").iterdir())
    options = []
    for part, name, most in (("train", "train_list", TRAIN_PER_CLASS), ("test", "eval_list", None)):
        lines = [
            f"{file} {label}\n"
            for label, folder in enumerate(classes)
            for file in sorted((images / part / folder).iterdir())[:most]
        ]
        path = out / f"{name}.txt"
        path.write_text("".join(lines), encoding="utf-8")
        options += ["--set", f"data.{name}={path}"]
    return options


def dna_fast(*arguments: str) -> float:
    """Runs a command; returns its seconds."""
    began = time.monotonic()
    subprocess.run([sys.executable, "-m", "dna_fast", *arguments], check=True)
    return round(time.monotonic() - began, 1)


def rate_variant(base: Path, run: Path, changes: tuple[str, ...], lists: list[str]) -> float:
    """Rates with something changed, by the same teacher; returns the seconds."""
    run.mkdir(exist_ok=True)
    for name in TEACHER:
        shutil.copy(base / name, run / name)
    if all(change.startswith("rate.") for change in changes) and not (run / "supernet").exists():
        shutil.copytree(base / "supernet", run / "supernet")
    overrides = [word for change in changes for word in ("--set", change)]
    return dna_fast("train", str(CONFIG), "--out", str(run), *lists, *overrides) + dna_fast("rate", str(run))


def summed(run: Path, base: Path) -> list[float]:
    """Per network of the study the sum of its cells' ratings in a run."""
    blocks = RatingTable.load(run / "ratings.npz").losses()
    plan = json.loads((base / "study" / "plan.json").read_text(encoding="utf-8"))
    return [
        float(sum(block[i] for block, i in zip(blocks, choice, strict=True)))
        for bucket in plan["choices"]
        for choice in bucket
    ]


def record(base: Path, ratings: dict[str, list[float]], timings: dict[str, float]) -> dict[str, Any]:
    """What is kept: the study of the run with every variant's rating as a further score."""
    told = json.loads((base / "study" / "study.json").read_text(encoding="utf-8"))
    nets = told["models"]
    scores = ratings | {name: [net[name] for net in nets] for name in ("macs", "params", "entropy")}
    models = Models(
        title=told["title"],
        names=[net["name"] for net in nets],
        truth_name=told["truth"],
        truth=np.array([net[told["truth"]] for net in nets]),
        scores={name: np.array(values, dtype=np.float64) for name, values in scores.items()},
        cost_name="macs",
        cost=np.array([net["macs"] for net in nets], dtype=np.float64),
        lower_is_better=frozenset(ratings),
        remarks=(*told["remarks"], f"{len(VARIANTS)} attempts were made; the best of several looks better than it is"),
        edges=tuple(float(edge) for edge in MACS),
    )
    found = study(models, np.random.Generator(np.random.Philox(0)), resamples=RESAMPLES)
    teacher = json.loads((base / "teacher_training.json").read_text(encoding="utf-8"))["accuracy"]
    return {
        "what": "pilot on CIFAR-10",
        "date": str(datetime.date.today()),
        "revision": revision(),
        "machine": facts(),
        "train_images": 10 * TRAIN_PER_CLASS,
        "teacher": teacher,
        "variants": {name: list(changes) for name, changes in VARIANTS.items()},
        "seconds": timings,
        "study": found.to_dict(),
    }


if __name__ == "__main__":
    raise SystemExit(main())
