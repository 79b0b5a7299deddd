"""Exports compute what the torch model does, alone and for any batch; what does not is not kept."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open
from small_run import CONFIG
from torch import Tensor, nn

from dna_fast import cli
from dna_fast._files import file_sha256
from dna_fast.architecture import Architecture, from_zoo, random_choice
from dna_fast.export import build_model, save_model
from dna_fast.export_check import MARGIN, UNIT, Expected, check, expect
from dna_fast.export_formats import FILES
from dna_fast.export_job import export, parse_formats
from dna_fast.export_source import Source, digit_images, find_source, identifier
from dna_fast.pipeline import Run
from dna_fast.space import PADDINGS, Frame, MBConvSpec, preset

ALL = tuple(FILES)


def digits_architecture(seed: int, **frame: Any) -> Architecture:
    space = preset("digits")
    space = replace(space, frame=replace(space.frame, **{"resolution": 32, **frame}))
    return Architecture.from_space(space, random_choice(space, np.random.default_rng(seed)))


def fractional(padding: str, seed: int = 0, **frame: Any) -> Architecture:
    """Random odd widths, mid_channels that are no multiple of anything, squeeze-excite here and there."""
    rng, width, blocks = np.random.default_rng(seed), 7, []
    for stride in (2, 1, 2):
        layers = []
        for i in range(int(rng.integers(1, 3))):
            out, mid = int(rng.integers(5, 23)), int(rng.integers(width + 1, 4 * width))
            kernel, se = int(rng.choice([3, 5, 7])), int(rng.choice([0, 1, 3]))
            layers.append(MBConvSpec(width, mid, out, kernel, stride if i == 0 else 1, se))
            width = out
        blocks.append(tuple(layers))
    known: dict[str, Any] = {"stem_channels": 9, "stem_width": 7, "head_channels": 31, "num_classes": 5, "resolution": 33}
    return Architecture(f"odd.{padding}-{seed}", Frame(padding=padding, **{**known, **frame}), tuple(blocks))


ARCHITECTURES = {
    "digits-symmetric": digits_architecture(1),
    "fractional-same-stem1": fractional("same", 2, stem_stride=1, resolution=17),
    "fractional-symmetric-no-stem-se": fractional("symmetric", 1, se_ratio=0.0),
}


def trained(arch: Architecture, num_classes: int | None = None) -> nn.Module:
    """A model whose statistics are those of images, so that its logits tell images apart."""
    torch.manual_seed(3)
    model = build_model(arch, num_classes=num_classes)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
    size = arch.frame.resolution
    with torch.no_grad():
        model(torch.cat([torch.randn(13, 3, size, size), digit_images(size)]))
    return model.eval()


def saved(arch: Architecture, directory: Path, num_classes: int | None = None) -> Path:
    save_model(trained(arch, num_classes), arch, directory)
    return directory


@dataclass(frozen=True)
class Exported:
    source: Source
    out: Path
    record: dict[str, Any]


@pytest.fixture(scope="module")
def exports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Exported]:
    found = {}
    for name, arch in ARCHITECTURES.items():
        place = tmp_path_factory.mktemp(name)
        source = find_source(str(saved(arch, place / "saved")))
        found[name] = Exported(source, place / "out", export(source, ALL, place / "out"))
    return found


def expected_of(source: Source) -> list[Expected]:
    """On images other than those that were checked when it was written, in a batch of five."""
    size = source.arch.frame.resolution
    images = torch.cat([digit_images(size), torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(9))])
    (case,) = [c for c in expect(source.model, {"five": images}) if c.name == "five 3"]
    with torch.no_grad():
        logits = copy.deepcopy(source.model).double()(images.double())
    return [case, replace(case, name="five", images=images, logits=logits)]


# ---- agreement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_export_is_as_near_as_rounding_explains(exports: dict[str, Exported], name: str) -> None:
    record = exports[name].record
    assert set(record["formats"]) == set(ALL)
    for form in record["formats"].values():
        assert [c["images"] for c in form["checks"]] == ["random 1", "random 3", "real 1", "real 3"]
        for found in form["checks"]:
            assert found["error"] <= found["tolerance"]
            assert found["torch_error"] <= found["tolerance"]
            # a tolerance that would hide a wrong layer checks nothing
            assert found["tolerance"] <= 1e-3 * found["logits_rms"]


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_models_under_test_tell_images_apart(exports: dict[str, Exported], name: str) -> None:
    for case in expected_of(exports[name].source):
        assert float(case.logits.std(0).mean()) > 100 * case.tolerance


ELSEWHERE = """
import sys
sys.modules["dna_fast"] = None  # an import of it fails
import numpy as np, onnxruntime, timm, torch
out, images, answers = sys.argv[1], np.load(sys.argv[2]), sys.argv[3]
sys.path.insert(0, out + "/timm")
import model
network = timm.create_model(sys.argv[4], pretrained=True).eval()
program = torch.export.load(out + "/model.pt2").module()
session = onnxruntime.InferenceSession(out + "/model.onnx")
with torch.no_grad():
    found = {"timm": network(torch.from_numpy(images)).numpy(), "torch-export": program(torch.from_numpy(images)).numpy()}
found["onnx"] = session.run(None, {"images": images})[0]
features = timm.create_model(sys.argv[4], pretrained=True, features_only=True)
shapes = [list(f.shape[1:]) for f in features(torch.from_numpy(images))]
assert [s[0] for s in shapes] == features.feature_info.channels()
size = images.shape[-1]
assert [s[1] for s in shapes] == [-(-size // r) for r in features.feature_info.reduction()], shapes
other = timm.create_model(sys.argv[4], num_classes=3, in_chans=1, drop_rate=0.1, drop_path_rate=0.1, pretrained=True)
assert other(torch.zeros(2, 1, size, size)).shape == (2, 3)
hub = timm.create_model("local-dir:" + out + "/timm", pretrained=True).eval()
assert all(torch.equal(a, b) for a, b in zip(hub.state_dict().values(), network.state_dict().values()))
np.savez(answers, **found)
"""


@pytest.mark.parametrize("name", ["fractional-same-stem1"])
def test_files_work_where_dna_fast_is_not(exports: dict[str, Exported], name: str, tmp_path: Path) -> None:
    source, cases = exports[name].source, expected_of(exports[name].source)
    np.save(tmp_path / "images.npy", cases[1].images.numpy())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    arguments = [str(exports[name].out), str(tmp_path / "images.npy"), str(tmp_path / "found.npz"), source.name]
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "found.npz") as found:
        assert sorted(found) == ["onnx", "timm", "torch-export"]
        for form, logits in found.items():
            check(form, lambda _, logits=logits: torch.from_numpy(logits), cases[1:])


@pytest.mark.slow
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("seed", range(8))
def test_random_architectures_export(seed: int, padding: str, tmp_path: Path) -> None:
    stem_stride = (1, 2, 3, 4)[seed % 4]
    drawn = fractional(padding, seed, stem_stride=stem_stride) if seed % 2 else digits_architecture(seed, padding=padding)
    source = find_source(str(saved(drawn, tmp_path / "saved")))
    assert set(export(source, ALL, tmp_path / "out")["formats"]) == set(ALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dna_a", "dna_b", "dna_c", "dna_d", "efficientnet_b0"])
def test_the_zoo_exports_at_224_pixels(name: str, tmp_path: Path) -> None:
    source = find_source(str(saved(from_zoo(name), tmp_path / "saved")))
    assert source.input_size == (3, 224, 224)
    assert set(export(source, ALL, tmp_path / "out")["formats"]) == set(ALL)
