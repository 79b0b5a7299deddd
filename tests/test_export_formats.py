"""Exports compute what the torch model does, alone and for any batch; what does not is not kept."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from exported import ARCHITECTURES, digits_architecture, fractional, saved, trained, wrongly
from safetensors import safe_open
from torch import Tensor, nn

from dna_fast._files import file_sha256
from dna_fast.architecture import Architecture, from_zoo
from dna_fast.export_check import MARGIN, UNIT, Expected, check, expect
from dna_fast.export_formats import FILES
from dna_fast.export_job import export
from dna_fast.export_source import Source, digit_images, find_source, identifier
from dna_fast.space import PADDINGS

ALL = tuple(FILES)


# Writing ONNX takes longer than all else, and symmetric padding is in the first.
FORMATS = {"fractional-symmetric-no-stem-se": ("timm", "torch-export", "safetensors")}


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
        found[name] = Exported(source, place / "out", export(source, FORMATS.get(name, ALL), place / "out"))
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
    assert set(record["formats"]) == set(FORMATS.get(name, ALL))
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
    arguments = [str(exports[name].out), str(tmp_path / "images.npy"), str(tmp_path / "found.npz"), source.name]
    done = subprocess.run([sys.executable, "-c", ELSEWHERE, *arguments], cwd=tmp_path, capture_output=True, text=True)
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
    drawn = (
        fractional(padding, seed, stem_stride=stem_stride) if seed % 2 else digits_architecture(seed, padding=padding)
    )
    source = find_source(str(saved(drawn, tmp_path / "saved")))
    assert set(export(source, ALL, tmp_path / "out")["formats"]) == set(ALL)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["dna_a", "dna_b", "dna_c", "dna_d", "efficientnet_b0"])
def test_the_zoo_exports_at_224_pixels(name: str, tmp_path: Path) -> None:
    source = find_source(str(saved(from_zoo(name), tmp_path / "saved")))
    assert source.input_size == (3, 224, 224)
    assert set(export(source, ALL, tmp_path / "out")["formats"]) == set(ALL)


# ---- the check ------------------------------------------------------------------------------------------------------


def test_the_tolerance_of_one_convolution_is_its_accumulation_depth() -> None:
    torch.manual_seed(0)
    layer, x = nn.Conv2d(6, 4, 3, bias=False), torch.randn(3, 6, 3, 3)  # one output pixel: 54 products each
    (_, case) = expect(nn.Sequential(layer, nn.Flatten()), {"x": x})
    sums = nn.functional.conv2d(x.double().abs(), layer.weight.double().abs())
    largest = MARGIN * (54**0.5 + 4) * UNIT * float(sums.detach().max())
    assert case.tolerance == pytest.approx(largest, rel=1e-6)
    assert 0 < case.torch_error < case.tolerance


class Applied(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.Conv2d(3, 4, 3),
        lambda: nn.Linear(5, 4),
        lambda: nn.BatchNorm2d(3),
        nn.SiLU,
        lambda: nn.SiLU(inplace=True),
        nn.Sigmoid,
        lambda: Applied(lambda x: x.mean((2, 3))),
        lambda: Applied(lambda x: x * (x + 1)),
        lambda: Applied(lambda x: x + x.flip(-1)),
    ],
    ids=["conv", "linear", "norm", "silu", "silu_", "sigmoid", "mean", "mul", "add"],
)
def test_every_operation_may_round(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    module = make()
    x = torch.randn(3, 5) if isinstance(module, nn.Linear) else torch.randn(3, 3, 6, 6)
    for case in expect(nn.Sequential(nn.Identity(), module).eval(), {"x": x}):
        assert case.torch_error <= case.tolerance
        assert UNIT * float(case.logits.abs().mean()) < case.tolerance < 100 * UNIT * (1 + float(x.abs().max()) ** 2)


@pytest.mark.parametrize("fault", ["eps", "padding", "weight", "nan", "bfloat16"])
def test_a_small_fault_is_more_than_rounding(exports: dict[str, Exported], fault: str) -> None:
    model = exports["fractional-symmetric-no-stem-se"].source.model
    expected = expect(model, {"random": torch.randn(3, 3, 33, 33, generator=torch.Generator().manual_seed(1))})
    check("same", copy.deepcopy(model), expected)
    with pytest.raises(
        RuntimeError, match=r"export onnx: on random 1 images the logits are off by .* rounding explains"
    ):
        check("onnx", wrongly(model, fault), expected)


def test_a_frozen_batch_shows(exports: dict[str, Exported]) -> None:
    model = exports["digits-symmetric"].source.model
    expected = expect(model, {"real": digit_images(32)})
    with pytest.raises(RuntimeError, match=r"real 3 images gave shape \[1, 10\], expected \[3, 10\]"):
        check("frozen", lambda images: model(images[:1]), expected)


def test_damaged_weights_are_named() -> None:
    model = trained(ARCHITECTURES["digits-symmetric"])
    model.classifier.bias.data[0] = torch.inf
    with pytest.raises(ValueError, match="logits are not finite; its weights are damaged"):
        expect(model, {"real": digit_images(32)})


@pytest.mark.parametrize("form", ["timm", "safetensors"])
def test_what_fails_is_not_kept(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, out = find_source(str(saved(ARCHITECTURES["fractional-same-stem1"], tmp_path / "saved"))), tmp_path / "out"
    export(source, [form], out)
    assert (out / FILES[form][0]).exists()
    wrong = replace(source, model=wrongly(source.model, "weight"))
    monkeypatch.setattr("dna_fast.export_job.expect", lambda model, images: expect(source.model, images))
    with pytest.raises(RuntimeError, match=f"export {form}: .* the file was not kept"):
        export(wrong, [form], out)
    assert list(out.iterdir()) == []


def test_checking_the_module_leaves_no_bytecode_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    source = find_source(str(saved(ARCHITECTURES["fractional-same-stem1"], tmp_path / "saved")))
    record = export(source, ["timm"], tmp_path / "out")
    there = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert there == {*record["formats"]["timm"]["files"], "export.json"}


# ---- what files say of themselves -----------------------------------------------------------------------------------


def test_the_record_names_every_file(exports: dict[str, Exported]) -> None:
    out, record = exports["digits-symmetric"].out, exports["digits-symmetric"].record
    assert json.loads((out / "export.json").read_text()) == json.loads(json.dumps(record))
    files = {name: digest for form in record["formats"].values() for name, digest in form["files"].items()}
    there = {str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()} - {"export.json"}
    assert set(files) == there
    assert all(file_sha256(out / name) == digest for name, digest in files.items())
    assert record["weights"] == "saved"
    assert record["input_size"] == [3, 32, 32]
    assert record["preprocessing"] is None
    assert record["formats"]["onnx"]["opset"] >= 18
    assert record["formats"]["timm"]["arch_def"] == exports["digits-symmetric"].source.arch.to_timm()


def test_onnx_and_torch_export_carry_the_architecture(exports: dict[str, Exported]) -> None:
    import onnx

    source, out = exports["digits-symmetric"].source, exports["digits-symmetric"].out
    proto = onnx.load(out / "model.onnx")
    said = {entry.key: entry.value for entry in proto.metadata_props}
    extra = {"metadata.json": ""}
    torch.export.load(out / "model.pt2", extra_files=extra)
    with safe_open(out / "model.safetensors", framework="pt") as file:
        header = file.metadata()
    for metadata in (said, json.loads(extra["metadata.json"]), header):
        assert Architecture.from_dict(json.loads(metadata["architecture_json"])) == source.arch
        assert metadata["weights"] == "saved"
        assert {"dna_fast", "torch", "timm", "input_size"} <= set(metadata)
    batch = proto.graph.input[0].type.tensor_type.shape.dim[0]
    assert batch.dim_param
    assert [i.name for i in proto.graph.input] + [o.name for o in proto.graph.output] == ["images", "logits"]


def test_no_file_tells_where_it_was_made(exports: dict[str, Exported]) -> None:
    out, places = (
        exports["digits-symmetric"].out,
        (str(Path(__file__).parent.parent), str(Path(torch.__file__).parent.parent)),
    )
    for path in (p for p in out.rglob("*") if p.is_file()):
        content = path.read_bytes()
        assert not [place for place in places if place.encode() in content], path.name


def test_names_become_identifiers() -> None:
    assert [identifier(name) for name in ("dna_a", "small-1-3", "7.x", "", "größe")] == [
        "dna_a",
        "small_1_3",
        "_7_x",
        "_",
        "gr__e",
    ]
