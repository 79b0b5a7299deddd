"""Wrong configurations, budgets, rules, images, teachers; see wrong_inputs.py."""

from __future__ import annotations

import shutil

import yaml
from PIL import Image
from wrong_inputs import CLASSES, CONFIG, SPACE, Place, wrong

CONFIGURATIONS, COMMANDS, BUDGETS, RULES, IMAGES, TEACHERS = (
    "Configurations",
    "Commands",
    "Budgets",
    "Rules",
    "Images",
    "Teachers",
)


# ---- configurations --------------------------------------------------------------------------------------------------


def overridden(what: str, override: str, *words: str) -> None:
    wrong(CONFIGURATIONS, what, override.partition("=")[0], *words)(lambda place: place.train(override))


overridden("a key that there is not", "train.epoch=3", "unknown key; did you mean 'epochs'?")
overridden("a key in another case", "train.Epochs=3", "did you mean 'epochs'?")
overridden("a key with hyphens", "train.batch-size=3", "did you mean 'batch_size'?")
overridden("a key of another section", "train.label_smoothing=0.1", "did you mean retrain.label_smoothing?")
overridden("a section that there is not", "trian.epochs=3", "did you mean 'train'?")
overridden("text instead of a number", "train.epochs=many", "expected a whole number, got 'many'")
overridden("a fraction instead of a whole number", "train.epochs=2.5", "expected a whole number, got 2.5")
overridden("a number below zero", "train.weight_decay=-1", "expected >= 0, got -1")
overridden("a number that is none", "train.weight_decay=.nan", "expected a number, got nan")
overridden("a number that is not finite", "retrain.lr=.inf", "expected a number, got inf")
overridden("a value that is not offered", "device=gpu", "'auto' or 'cpu' or 'cuda', got 'gpu'")
overridden("a batch that is no whole number of groups", "train.batch_size=24", "multiple of train.bn_group = 16")
overridden("warm-up as long as training", "retrain.warmup_epochs=1", "less than retrain.epochs = 1")
overridden("as many learning rates as no block", "train.learning_rates=[1, 1, 1]", "1 or 2 numbers", "got 3")
overridden("a preset that there is not", "space=digit", "a preset (dna, digits)", "did you mean 'digits'?")
overridden("a space file that is not there", "space=none.json", "cannot read", "No such file")
overridden("cuts other than blocks", "teacher.cuts=[blocks.1]", "expected 2 names (one per block), got 1")
overridden("an amount of memory in other units", "rate.max_memory=4GB", "suffix k, M or G", "'4GB'")
overridden("a bound on a cost that there is not", "search.max.mac=5M", "did you mean 'macs'?")


@wrong(CONFIGURATIONS, "an override without a value", "'train.epochs'", "expected 'dotted.key=value'")
def _(place: Place) -> list[str]:
    return place.train("train.epochs")


@wrong(CONFIGURATIONS, "an override of a run that exists", "--set: a run that exists keeps its configuration")
def _(place: Place) -> list[str]:
    return ["train", str(place.shared / "run"), "--set", "train.epochs=2"]


def written(what: str, text: str, *words: str) -> None:
    def provoke(place: Place) -> list[str]:
        return ["train", str(place.config(text)), "--out", str(place.tmp / "new")]

    wrong(CONFIGURATIONS, what, "config.yaml", *words)(provoke)


written("a key given twice", "name: a\nseed: 1\nseed: 2\n", "key 'seed' is given twice", "line 3")
written("a bracket that is not closed", "name: a\ntrain: [1,\n", "not valid YAML", "line")
written("tabs", "name: a\ntrain:\n\tepochs: 3\n", "not valid YAML", "line 3", "indent with spaces")
written("a list instead of keys", "- name\n", "expected a mapping with name, seed, device, space")
written("an empty file", "", "expected a mapping with name, seed, device, space", "an empty file")
written(
    "keys that must be given are missing", "name: a\nspace: dna\n", "data: missing, and has no default", "data.kind"
)
written(
    "images without a place", "name: a\nspace: dna\ndata: {kind: folder}\n", "data.root:", "a directory with train/"
)
written(
    "a section that is a number",
    "name: a\nspace: dna\ndata: {kind: digits}\ntrain: 3\n",
    "train: expected a mapping, got 3",
)


def spaced(what: str, change: dict[str, object], *words: str) -> None:
    written(what, yaml.safe_dump({**CONFIG, "space": {**SPACE, **change}}), "space", *words)


spaced("a space without blocks", {"blocks": []}, "blocks must list at least one block")
spaced(
    "a cell without layers",
    {"blocks": [{"stride": 2, "cells": [{"depth": 0, "width": 8}]}]},
    "space.blocks[0].cells[0]",
    "depth must be a positive integer, got 0",
)
spaced(
    "a block with equal cells",
    {"blocks": [{"stride": 1, "cells": [{"depth": 1, "width": 8}] * 2}]},
    "cells must differ",
)
spaced(
    "an even kernel", {"choices": [{"kernel": 4, "expand_ratio": 2}]}, "space.choices[0]", "kernel must be odd, got 4"
)
spaced("a mistyped key in a space", {"chioces": []}, "unknown key 'chioces'; did you mean 'choices'?")
spaced("a list where a mapping belongs", {"blocks": [[2, 8]]}, "space.blocks[0]: expected a mapping with stride, cells")


# ---- commands --------------------------------------------------------------------------------------------------------


@wrong(COMMANDS, "a mistyped command", "No such command 'serch'", "Did you mean 'search'?", "--help")
def _(place: Place) -> list[str]:
    return ["serch"]


@wrong(COMMANDS, "an option that there is not", "--maxx", "search --help", varies=r"(?<=--maxx).*(?= See)")
def _(place: Place) -> list[str]:
    return ["search", "--maxx", "macs=1M"]


@wrong(COMMANDS, "text where a number belongs", "--top", "integer", varies=r"(?<='--top': ).*(?= See)")
def _(place: Place) -> list[str]:
    return place.search("--top", "five")


@wrong(COMMANDS, "training without --out", "--out: expected a run directory")
def _(place: Place) -> list[str]:
    return ["train", str(place.config())]


@wrong(COMMANDS, "neither run nor tables", "give a run directory, or --ratings FILE")
def _(place: Place) -> list[str]:
    return ["search"]


@wrong(COMMANDS, "costs of nothing", "give either a run directory or --model NAME")
def _(place: Place) -> list[str]:
    return ["cost"]


@wrong(COMMANDS, "a model that there is not", "unknown network 'DNA-E'; did you mean 'dna_")
def _(place: Place) -> list[str]:
    return ["cost", "--model", "DNA-E"]


@wrong(COMMANDS, "a shipped configuration that there is not", "did you mean 'imagenet_b7'?")
def _(place: Place) -> list[str]:
    return ["config", "show", "imagenet_b8"]


@wrong(COMMANDS, "a bug", "KeyError: 'x'", "This is a bug in dna_fast", "dna-fast info", "traceback in")
def _(place: Place) -> list[str]:
    def fail() -> None:
        raise KeyError("x")

    place.patch.setattr("dna_fast.about.facts", fail)
    place.patch.setattr("tempfile.tempdir", str(place.tmp))
    return ["info"]


# ---- budgets ---------------------------------------------------------------------------------------------------------


def asked(what: str, *options: str, words: tuple[str, ...], code: int = 2) -> None:
    wrong(BUDGETS, what, *words, code=code)(lambda place: place.search(*options))


asked("a cost that there is not", "--max", "mac=1M", words=("no cost 'mac'; did you mean 'macs'?",))
asked("a cost in another case", "--max", "MACS=1M", words=("no cost 'MACS'; did you mean 'macs'?",))
asked("a lower bound above the upper", "--max", "macs=1M", "--min", "macs=2M", words=("macs", "lower <= upper"))
asked("a budget without a bound", "--max", "macs=", words=("COST=BOUND such as macs=460M", "'macs='"))
asked("a budget of nothing", "--max", "", words=("COST=BOUND such as macs=460M", "''"))
asked("a number too large", "--max", "macs=1e30", words=("bound of macs", "'1e30'"))
asked("a number below zero", "--max", "macs=-3", words=("bound of macs", "'-3'"))
asked("other units", "--max", "macs=4.6 GFLOPs", words=("bound of macs", "suffix k, M or G"))
asked("a part of a unit", "--max", "macs=1.0005k", words=("whole number", "fewer decimals"))
asked("a share of nothing", "--max", "macs=teacher/0", words=("divisor > 0", "'teacher/0'"))
asked(
    "a share of the teacher's params",
    "--max",
    "params=teacher/3",
    words=("bound of params", "share of the teacher's macs"),
)
asked("a budget given twice", "--max", "macs=1M", "--max", "macs=2M", words=("--max gives macs twice",))
asked("none of the best", "--top", "0", words=("--top must be at least 1, got 0",))
asked("a budget that nothing fits", "--max", "macs=1k", words=("smallest feasible bound is",), code=1)


# ---- rules -----------------------------------------------------------------------------------------------------------


def ruled(what: str, *options: str, words: tuple[str, ...]) -> None:
    wrong(RULES, what, *words)(lambda place: place.search(*options))


ruled("a rule that is none", "--fix", "everything", words=("BLOCK:LAYERSxWIDTH", "'everything'"))
ruled("a cell without its block", "--fix", "1x8", words=("such as 3:4x112", "'1x8'"))
ruled("a block that there is not", "--fix", "7:1x8", words=("'7:1x8': blocks run from 0 to 1",))
ruled("a cell that there is not", "--forbid", "0:3x8", words=("no such cell, only 1x8, 2x10",))
ruled("an operator that there is not", "--forbid", "op5", words=("'op5': operators run from 0 to 1",))
ruled("a path of another length", "--fix", "0:2x10:0", words=("'0:2x10:0'", "a path has 2 choices"))
ruled("rules that leave nothing", "--fix", "0:1x8", "--fix", "0:2x10", words=("leaves no candidate of block 0",))
ruled(
    "alternatives that cannot differ so much", "--apart", "3", words=("--apart must be 1 to 2, the number of blocks",)
)


# ---- images ----------------------------------------------------------------------------------------------------------


@wrong(IMAGES, "a place that is not there", "does not exist", "one folder per class")
def _(place: Place) -> list[str]:
    return place.train("data.root=nowhere")


@wrong(IMAGES, "a folder without classes", "has no class folders")
def _(place: Place) -> list[str]:
    (place.tmp / "empty" / "train").mkdir(parents=True)
    return place.train("data.root=empty")


@wrong(IMAGES, "a class without images", "no images in class folder", "apple")
def _(place: Place) -> list[str]:
    for path in (place.data() / "train" / "apple").iterdir():
        path.unlink()
    return place.train("data.root=data")


@wrong(IMAGES, "text with an image's name", "00.png", "unreadable image")
def _(place: Place) -> list[str]:
    (place.data() / "train" / "cat" / "00.png").write_text("no image", encoding="utf-8")
    return place.train("data.root=data")


@wrong(
    IMAGES,
    "images that were cut short",
    "4 unreadable image(s)",
    "03.png (image file is truncated)",
    "data.on_bad: skip",
)
def _(place: Place) -> list[str]:
    root = place.data()
    for name in CLASSES:
        path = root / "train" / name / "03.png"
        path.write_bytes(path.read_bytes()[:-200])
    return place.train("data.root=data", "rate.images=16")


@wrong(IMAGES, "an image that is damaged inside", "cannot decode", "03.png", varies=r"(?<=03.png: ).*?(?=; replace)")
def _(place: Place) -> list[str]:
    root = place.data()
    for name in CLASSES:  # whichever of them is trained with: the end is whole, so looking at ends shows nothing
        path = root / "train" / name / "03.png"
        content = bytearray(path.read_bytes())
        content[60:-20] = bytes(len(content) - 80)
        path.write_bytes(content)
    return place.train("data.root=data", "rate.images=16")


@wrong(IMAGES, "a list that names what is not there", "gone.png")
def _(place: Place) -> list[str]:
    lines = [f"{place.shared}/data/train/{name}/{i:02}.png {name}" for name in CLASSES for i in range(24)]
    place.write("train.txt", "\n".join([*lines, "gone.png cat"]))
    return place.train("data.kind=list", "data.root=null", "data.train_list=train.txt", "data.eval_list=train.txt")


@wrong(IMAGES, "a list with a line without a label", "train.txt, line 1", "a path and a label")
def _(place: Place) -> list[str]:
    place.write("train.txt", "images/1.png\n")
    return place.train("data.kind=list", "data.root=null", "data.train_list=train.txt", "data.eval_list=train.txt")


@wrong(IMAGES, "data check of a place that is not there", "nowhere")
def _(place: Place) -> list[str]:
    return ["data", "check", "nowhere"]


@wrong(IMAGES, "classes that only training has", "same classes", "dog")
def _(place: Place) -> list[str]:
    shutil.rmtree(place.data() / "val" / "dog")
    return place.train("data.root=data")


@wrong(IMAGES, "classes other than the space's", "5 classes", "set the space's frame.num_classes to 5")
def _(place: Place) -> list[str]:
    root = place.data()
    for part in ("train", "val"):
        (root / part / "eel").mkdir()
        Image.new("RGB", (16, 16)).save(root / part / "eel" / "00.png")
    return place.train("data.root=data")


@wrong(IMAGES, "fewer images than a batch", "fewer images than one batch of 128", "lower train.batch_size")
def _(place: Place) -> list[str]:
    return place.train("train.batch_size=128")


@wrong(IMAGES, "fewer images than are to be rated", "rate.images = 160", "more than the 96 training images")
def _(place: Place) -> list[str]:
    return place.train("rate.images=160")


@wrong(IMAGES, "images other than the run began with", "not those this run began with", "splits.npz")
def _(place: Place) -> list[str]:
    Image.new("RGB", (20, 20)).save(place.data() / "train" / "cat" / "00.png")
    config = place.run() / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace(str(place.shared / "data"), str(place.tmp / "data")))
    return ["rate", str(place.run())]


# ---- teachers --------------------------------------------------------------------------------------------------------

TIMM = ("teacher.arch=null", "teacher.model=tf_efficientnet_b0.in1k", "teacher.pretrained=false")


@wrong(TEACHERS, "a model that timm has not", "timm has no model 'resnet5O'; nearest: ", varies=r"(?<=nearest: ).*")
def _(place: Place) -> list[str]:
    return place.train(*TIMM, "teacher.model=resnet5O")


@wrong(
    TEACHERS,
    "weights that timm has not",
    "timm has no weights 'in22k' for tf_efficientnet_b0; it has",
    varies=r"(?<=it has: ).*",
)
def _(place: Place) -> list[str]:
    return place.train(*TIMM, "teacher.model=tf_efficientnet_b0.in22k")


@wrong(TEACHERS, "a checkpoint that is not there", "none.pth: no such file")
def _(place: Place) -> list[str]:
    return place.train(*TIMM, "teacher.checkpoint=none.pth")


@wrong(TEACHERS, "a checkpoint that is no file of weights", "weights.safetensors", "cannot be read as tensors only")
def _(place: Place) -> list[str]:
    place.write("weights.safetensors", b"no weights")
    return place.train(*TIMM, "teacher.checkpoint=weights.safetensors")


@wrong(
    TEACHERS,
    "a checkpoint of another network",
    "does not fit EfficientNet",
    "missing",
    varies=r"(?<=EfficientNet: ).*(?=; check)",
)
def _(place: Place) -> list[str]:
    shutil.copy(place.shared / "run" / "models" / "found" / "model.safetensors", place.tmp / "weights.safetensors")
    return place.train(*TIMM, "teacher.checkpoint=weights.safetensors")


@wrong(TEACHERS, "cuts that there are not", "no module 'blocks.9'", "nearest: ", varies=r"(?<=nearest: ).*")
def _(place: Place) -> list[str]:
    return place.train("teacher.cuts=[blocks.1, blocks.9]")


@wrong(TEACHERS, "cuts in another order", "execution order")
def _(place: Place) -> list[str]:
    return place.train("teacher.cuts=[blocks.2, blocks.1]")


@wrong(TEACHERS, "features of other sizes than the space's", "4x4", "8x8", "do not match the space")
def _(place: Place) -> list[str]:
    return place.train("teacher.cuts=[blocks.0, blocks.1]")


@wrong(TEACHERS, "layers that timm cannot read", "teacher arch", "'zz_r1_k3'")
def _(place: Place) -> list[str]:
    return place.train("teacher.arch={arch_def: [[zz_r1_k3]], stem_size: 8, num_features: 8}")


@wrong(
    TEACHERS,
    "training that stays below what is asked for",
    "min_accuracy asks for 100.0 %",
    "train longer",
    varies=r"(?<=reached ).*(?= top-1)",
)
def _(place: Place) -> list[str]:
    return place.train("teacher.fit={epochs: 1, warmup_epochs: 0, batch_size: 16, min_accuracy: 1.0}")
