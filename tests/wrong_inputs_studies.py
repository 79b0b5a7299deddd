"""Wrong studies and profiles; see wrong_inputs.py."""

from __future__ import annotations

import csv

from wrong_inputs import Place, wrong

from dna_fast.config import load_config
from dna_fast.profile_table import write_template

STUDIES, PROFILES = "Studies", "Profiles"


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
