"""Wrong files, tables and checkpoints; see wrong_inputs.py."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from wrong_inputs import Place, wrong

FILES, TABLES, CHECKPOINTS = "Files", "Tables", "Checkpoints"


def rated(place: Place, name: str = "ratings.npz") -> list[str]:
    return ["search", "--ratings", str(place.tmp / name)]


def edit_json(path: Path, change: Callable[[Any], object]) -> None:
    data = json.loads(path.read_text(encoding="utf-8"))
    change(data)
    path.write_text(json.dumps(data), encoding="utf-8")


def edit_table(
    place: Place, change: Callable[[dict[str, Any], dict[str, Any]], object], name: str = "ratings"
) -> list[str]:
    """A search with a table of the run after `change(arrays, metadata)`."""
    with np.load(place.shared / "run" / f"{name}.npz") as stored:
        arrays = {key: stored[key].copy() for key in stored.files}
    metadata = json.loads(arrays["metadata"].tobytes())
    change(arrays, metadata)
    arrays["metadata"] = np.frombuffer(json.dumps(metadata).encode(), np.uint8)
    np.savez(place.tmp / f"{name}.npz", **arrays)
    if name == "ratings":
        return rated(place)
    return ["search", "--ratings", str(place.shared / "run" / "ratings.npz"), "--costs", str(place.tmp / "costs.npz")]


# ---- files -----------------------------------------------------------------------------------------------------------


@wrong(FILES, "a table that is not there", "ratings.npz: no such file")
def _(place: Place) -> list[str]:
    return rated(place)


@wrong(FILES, "a directory instead of a table", "ratings.npz", "directory")
def _(place: Place) -> list[str]:
    (place.tmp / "ratings.npz").mkdir()
    return rated(place)


@wrong(FILES, "an empty table", "ratings.npz", "damaged", varies=r"(?<=not one \().*(?=\); write)")
def _(place: Place) -> list[str]:
    place.write("ratings.npz", b"")
    return rated(place)


@wrong(FILES, "binary garbage instead of a table", "ratings.npz", "damaged", varies=r"(?<=not one \().*(?=\); write)")
def _(place: Place) -> list[str]:
    place.write("ratings.npz", bytes(range(256)) * 8)
    return rated(place)


@wrong(FILES, "a truncated table", "ratings.npz", "damaged", varies=r"(?<=not one \().*(?=\); write)")
def _(place: Place) -> list[str]:
    place.write("ratings.npz", (place.shared / "run" / "ratings.npz").read_bytes()[:-200])
    return rated(place)


@wrong(FILES, "an .npz of pickled objects", "ratings.npz", "write it anew", varies=r"(?<=not one \().*(?=\); write)")
def _(place: Place) -> list[str]:
    np.savez(place.tmp / "ratings.npz", metadata=np.array([{}], dtype=object))
    return rated(place)


@wrong(FILES, "an .npz of something else", "ratings.npz", "not a table of dna_fast")
def _(place: Place) -> list[str]:
    np.savez(place.tmp / "ratings.npz", weights=np.zeros(3))
    return rated(place)


@wrong(FILES, "a table that must not be read", "ratings.npz", "Permission denied", "can be read")
def _(place: Place) -> list[str]:
    import builtins

    path, real = place.write("ratings.npz", b""), open

    def refusing(file: Any, *arguments: Any, **named: Any) -> Any:
        if str(file) == str(path):
            raise PermissionError(13, "Permission denied", str(path))
        return real(file, *arguments, **named)

    place.patch.setattr(builtins, "open", refusing)  # to root nothing is forbidden
    return rated(place)


@wrong(
    FILES, "a configuration that is not there", "none.yaml: no such file", "digits.yaml", varies=r"(?<=examples: ).*"
)
def _(place: Place) -> list[str]:
    return ["train", str(place.tmp / "none.yaml"), "--out", str(place.tmp / "new")]


@wrong(FILES, "binary garbage instead of a configuration", "config.yaml", "UTF-8")
def _(place: Place) -> list[str]:
    return ["train", str(place.write("config.yaml", b"name: \xff\xfe\n")), "--out", str(place.tmp / "new")]


@wrong(
    FILES,
    "an architecture that is no JSON",
    "arch.json",
    "damaged, not valid JSON",
    varies=r"(?<=JSON \().*(?=\); write)",
)
def _(place: Place) -> list[str]:
    return ["cost", "--model", str(place.write("arch.json", '{"format": "dna_fast.arch'))]


@wrong(FILES, "a directory instead of an architecture", "arch.json: Is a directory; give a file")
def _(place: Place) -> list[str]:
    (place.tmp / "arch.json").mkdir()
    return ["cost", "--model", str(place.tmp / "arch.json")]


@wrong(FILES, "an architecture of another format", "arch.json", "format must be")
def _(place: Place) -> list[str]:
    text = (place.shared / "run" / "architecture.json").read_text(encoding="utf-8")
    return ["cost", "--model", str(place.write("arch.json", text.replace("dna_fast.architecture", "other")))]


@wrong(FILES, "an architecture of a newer version", "arch.json", "a newer one needs a newer dna_fast")
def _(place: Place) -> list[str]:
    text = (place.shared / "run" / "architecture.json").read_text(encoding="utf-8")
    return ["cost", "--model", str(place.write("arch.json", text.replace('"version": 1', '"version": 9')))]


@wrong(FILES, "an architecture whose layers do not fit each other", "arch.json", "in_channels must be the width before")
def _(place: Place) -> list[str]:
    path = place.write("arch.json", (place.shared / "run" / "architecture.json").read_bytes())
    edit_json(path, lambda data: data["blocks"][1][0].update(in_channels=77))
    return ["cost", "--model", str(path)]


@wrong(FILES, "a directory that is no run", "not a run directory", "dna-fast train CONFIG --out")
def _(place: Place) -> list[str]:
    return ["rate", str(place.tmp)]


@wrong(FILES, "a run that is not rated yet", "ratings.npz: not rated yet; run: dna-fast rate")
def _(place: Place) -> list[str]:
    (place.run() / "ratings.npz").unlink()
    return ["search", str(place.run())]


@wrong(FILES, "retraining before a search", "architecture.json: no architecture yet; run: dna-fast search")
def _(place: Place) -> list[str]:
    (place.run() / "architecture.json").unlink()
    return ["retrain", str(place.run())]


@wrong(FILES, "a teacher.json that lacks its macs", "teacher.json", "damaged", "macs")
def _(place: Place) -> list[str]:
    edit_json(place.run() / "teacher.json", lambda data: data.pop("macs"))
    return ["search", str(place.run())]


@wrong(
    FILES,
    "a model whose weights are truncated",
    "model.safetensors",
    "cannot be read",
    code="ValueError",
    varies=r"(?<=read \().*(?=\); export)",
)
def _(place: Place) -> None:
    from dna_fast.export import load_model

    path = place.run() / "models" / "found" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    load_model(path.parent)


# ---- tables ----------------------------------------------------------------------------------------------------------


def set_value(name: str, column: str, value: float) -> Callable[[dict[str, Any], dict[str, Any]], object]:
    def change(arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
        arrays[name][column].flat[1] = value

    return change


@wrong(TABLES, "ratings as a cost table", "expected format 'dna_fast.costs'", "mixed up")
def _(place: Place) -> list[str]:
    ratings = str(place.shared / "run" / "ratings.npz")
    return ["search", "--ratings", ratings, "--costs", ratings]


@wrong(TABLES, "costs of another space", "both tables must come from one space")
def _(place: Place) -> list[str]:
    from dna_fast import cost_table, preset

    cost_table(preset("digits")).save(place.tmp / "costs.npz")
    ratings = str(place.shared / "run" / "ratings.npz")
    return ["search", "--ratings", ratings, "--costs", str(place.tmp / "costs.npz")]


@wrong(TABLES, "a table whose space was edited", "edited: its space has sha256")
def _(place: Place) -> list[str]:
    return edit_table(place, lambda arrays, metadata: metadata["space"].update(name="other"))


@wrong(TABLES, "a table of a newer version", "upgrade dna_fast")
def _(place: Place) -> list[str]:
    return edit_table(place, lambda arrays, metadata: metadata.update(version=9))


@wrong(TABLES, "too few candidates in a block", "block 0 must be [candidates] = [6], got [4]")
def _(place: Place) -> list[str]:
    return edit_table(place, lambda arrays, metadata: arrays.update(block_0=arrays["block_0"][:4]))


@wrong(TABLES, "a block that is missing", "expected the arrays block_0, block_1, got block_0")
def _(place: Place) -> list[str]:
    return edit_table(place, lambda arrays, metadata: arrays.pop("block_1"))


@wrong(TABLES, "a rating that is nan", "relative_l1 must be finite, got nan for candidate 1")
def _(place: Place) -> list[str]:
    return edit_table(place, set_value("block_0", "relative_l1", np.nan))


@wrong(TABLES, "a standard error that is negative", "relative_l1_se must be finite and >= 0")
def _(place: Place) -> list[str]:
    return edit_table(place, set_value("block_0", "relative_l1_se", -1.0))


@wrong(TABLES, "ratings of another dtype", "must have the float64 fields", varies=r"(?<=, got ).*")
def _(place: Place) -> list[str]:
    def change(arrays: dict[str, Any], metadata: dict[str, Any]) -> None:
        block = arrays["block_0"]
        arrays["block_0"] = block.astype([(name, np.float32) for name in block.dtype.names])

    return edit_table(place, change)


@wrong(TABLES, "a cost that is negative", "must be >= 0, got -5")
def _(place: Place) -> list[str]:
    return edit_table(place, set_value("block_0", "macs", -5), "costs")


@wrong(TABLES, "a metric that there is not", "unknown metric 'relativ_l1'; did you mean 'relative_l1'?")
def _(place: Place) -> list[str]:
    return place.search("--metric", "relativ_l1")


@wrong(TABLES, "metadata that is no JSON", "its metadata is not JSON", varies=r"(?<=JSON \().*(?=\); write)")
def _(place: Place) -> list[str]:
    np.savez(place.tmp / "ratings.npz", metadata=np.frombuffer(b"{", np.uint8))
    return rated(place)


# ---- checkpoints -----------------------------------------------------------------------------------------------------


def state(place: Place) -> Path:
    return place.run() / "supernet" / "state.json"


def block_file(place: Place) -> Path:
    return next((place.run() / "supernet").glob("step_*/block_1.safetensors"))


@wrong(CHECKPOINTS, "of another configuration", "belongs to another configuration", "use another run directory")
def _(place: Place) -> list[str]:
    edit_json(state(place), lambda data: data.update(identity="0" * 64))
    return ["rate", str(place.run())]


@wrong(
    CHECKPOINTS, "a damaged state.json", "state.json", "damaged, not valid JSON", varies=r"(?<=JSON \().*(?=\); write)"
)
def _(place: Place) -> list[str]:
    state(place).write_text('{"format": ', encoding="utf-8")
    return ["rate", str(place.run())]


@wrong(CHECKPOINTS, "a position that is negative", "state.json", "position.step must not be negative")
def _(place: Place) -> list[str]:
    edit_json(state(place), lambda data: data["kept"][0]["position"].update(step=-3))
    return ["rate", str(place.run())]


@wrong(CHECKPOINTS, "of a newer version", "state.json", "update dna_fast")
def _(place: Place) -> list[str]:
    edit_json(state(place), lambda data: data.update(version=9))
    return ["rate", str(place.run())]


@wrong(CHECKPOINTS, "a file of another format", "state.json", "not a supernet checkpoint")
def _(place: Place) -> list[str]:
    state(place).write_text("[]", encoding="utf-8")
    return ["rate", str(place.run())]


@wrong(CHECKPOINTS, "a block's file that is missing", "block_1.safetensors", varies=r"(?<=read \().*(?=\);)")
def _(place: Place) -> list[str]:
    block_file(place).unlink()
    return ["rate", str(place.run())]


@wrong(CHECKPOINTS, "a block's file that is truncated", "block_1.safetensors", varies=r"(?<=read \().*(?=\);)")
def _(place: Place) -> list[str]:
    block_file(place).write_bytes(block_file(place).read_bytes()[:500])
    return ["rate", str(place.run())]


@wrong(
    CHECKPOINTS, "weights of other shapes", "block_1.safetensors", "does not fit this space", varies=r"(?<=space: ).*"
)
def _(place: Place) -> list[str]:
    tensors = load_file(block_file(place))
    save_file({name: t.flatten() for name, t in tensors.items()}, block_file(place))
    name, digest = block_file(place).name, hashlib.sha256(block_file(place).read_bytes()).hexdigest()
    edit_json(state(place), lambda data: data["kept"][0]["files"].update({name: digest}))
    return ["rate", str(place.run())]


@wrong(CHECKPOINTS, "a supernet that is not trained", "the supernet is not trained yet; run: dna-fast train")
def _(place: Place) -> list[str]:
    state(place).unlink()
    return ["rate", str(place.run())]


@wrong(CHECKPOINTS, "splits.npz that is damaged", "splits.npz", "damaged", varies=r"(?<=damaged \().*(?=\);)")
def _(place: Place) -> list[str]:
    (place.run() / "splits.npz").write_bytes(b"PK")
    return ["rate", str(place.run())]


@wrong(
    CHECKPOINTS, "a teacher other than the run's", "teacher: it is not the one this run began with", "weights_sha256"
)
def _(place: Place) -> list[str]:
    edit_json(place.run() / "teacher.json", lambda data: data.update(weights_sha256="0" * 64))
    return ["rate", str(place.run())]


@wrong(CHECKPOINTS, "a run of another configuration in --out", "train.epochs is 1 there and 2 here")
def _(place: Place) -> list[str]:
    return ["train", str(place.config()), "--out", str(place.run()), "--set", "train.epochs=2"]
