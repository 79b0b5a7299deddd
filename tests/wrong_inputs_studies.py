"""Wrong studies and profiles; see wrong_inputs.py."""

from __future__ import annotations

import csv
import shutil

from wrong_inputs import Place, wrong

from dna_fast.config import load_config
from dna_fast.profile_table import write_template

STUDIES, PROFILES, NETWORKS, RANKS = "Studies", "Profiles", "Networks of trained blocks", "Ranks and downloads"


def models(place: Place, *lines: str) -> str:
    """A CSV file of trained models."""
    return str(place.write("models.csv", "\n".join(["name,accuracy,rating,macs", *lines])))


@wrong(STUDIES, "a run without a number of architectures", "--sample", "e.g. --sample 24")
def _(place: Place) -> list[str]:
    return ["study", str(place.shared / "run")]


@wrong(STUDIES, "no architectures", "got 0")
def _(place: Place) -> list[str]:
    return ["study", str(place.run()), "--sample", "0"]


@wrong(STUDIES, "a range with one end", "--between", "4M,6M")
def _(place: Place) -> list[str]:
    return ["study", str(place.run()), "--sample", "4", "--between", "4M"]


@wrong(STUDIES, "a file that is not there", "none.csv")
def _(place: Place) -> list[str]:
    return ["study", "none.csv", "--scores", "rating"]


@wrong(STUDIES, "a column that there is not", "no column 'ratings'", "did you mean 'rating'?")
def _(place: Place) -> list[str]:
    return ["study", models(place, "a,1,2,3", "b,2,1,4", "c,3,3,5"), "--scores", "ratings"]


@wrong(STUDIES, "a value that is no number", "models.csv, line 3", "rating must be a number", "'high'")
def _(place: Place) -> list[str]:
    return ["study", models(place, "a,1,2,3", "b,2,high,4", "c,3,3,5"), "--scores", "rating"]


@wrong(STUDIES, "models that are all equally good", "accuracy is 1 for all 3 models", "nothing to rank")
def _(place: Place) -> list[str]:
    return ["study", models(place, "a,1,2,3", "b,1,1,4", "c,1,3,5"), "--scores", "rating"]


@wrong(STUDIES, "two models", "at least")
def _(place: Place) -> list[str]:
    return ["study", models(place, "a,1,2,3", "b,2,1,4"), "--scores", "rating"]


@wrong(PROFILES, "a space that there is not", "dnaa")
def _(place: Place) -> list[str]:
    return ["profile", "dnaa"]


@wrong(PROFILES, "a dtype that there is not", "int8", "float32")
def _(place: Place) -> list[str]:
    return ["profile", str(place.run()), "--dtype", "int8"]


@wrong(PROFILES, "a table from elsewhere without a layer", "phone.csv", "missing")
def _(place: Place) -> list[str]:
    path = place.tmp / "phone.csv"
    write_template(path, load_config(place.config()).search_space(), 1, "float32")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"latency_us": "1"} for row in rows[:-1])
    return ["profile", str(place.run()), "--csv", str(path)]


# ---- networks of trained blocks --------------------------------------------------------------------------------------


@wrong(NETWORKS, "a recipe that there is not", "--recipe", "released", "stronger")
def _(place: Place) -> list[str]:
    return ["retrain", str(place.run()), "--recipe", "paper"]


@wrong(NETWORKS, "a published network that there is not", "dna_e", "dna_a")
def _(place: Place) -> list[str]:
    return ["retrain", str(place.run()), "--also", "dna_e"]


@wrong(NETWORKS, "a key that is not retraining's", "--set train.epochs=1", "retrain.KEY=VALUE")
def _(place: Place) -> list[str]:
    return ["retrain", str(place.run()), "--set", "train.epochs=1"]


@wrong(NETWORKS, "more epochs for the head than there are", "retrain.head_epochs")
def _(place: Place) -> list[str]:
    return ["retrain", str(place.run()), "--init", "inherited", "--set", "retrain.head_epochs=9"]


@wrong(NETWORKS, "blocks to inherit where training has not finished", "is not trained yet")
def _(place: Place) -> list[str]:
    shutil.rmtree(place.run() / "supernet")
    return ["retrain", str(place.run()), "--init", "inherited"]


@wrong(NETWORKS, "a comparison before the search", "no architecture yet", "dna-fast search")
def _(place: Place) -> list[str]:
    (place.run() / "architecture.json").unlink()
    return ["compare", str(place.run())]


@wrong(NETWORKS, "a comparison that leaves no epochs behind the head's", "retrain.head_epochs")
def _(place: Place) -> list[str]:
    return ["compare", str(place.run())]


# ---- many ranks ------------------------------------------------------------------------------------------------------


@wrong(RANKS, "a placement that is none", "placement", "2x4")
def _(place: Place) -> list[str]:
    return place.train("train.placement=rows")


@wrong(RANKS, "a placement of other blocks than the space's", "placement", "2 blocks")
def _(place: Place) -> list[str]:
    return place.train("train.placement=2+2")


@wrong(RANKS, "a download that is not CIFAR-10's", "data_batch_1.bin")
def _(place: Place) -> list[str]:
    (place.tmp / "cifar").mkdir()
    return ["data", "cifar10", "cifar", "--out", "images"]
