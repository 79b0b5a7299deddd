"""timm knows the zoo, and networks of one's own."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from exported import ARCHITECTURES, saved, trained

from dna_fast import timm_models
from dna_fast.architecture import from_zoo
from dna_fast.export import build_model
from dna_fast.export_job import export
from dna_fast.export_source import find_source

ODD = ARCHITECTURES["fractional-same-stem1"]


@pytest.mark.parametrize("name", ["dna_a", "dna_b", "dna_c", "dna_d"])
def test_the_zoo_is_built_as_by_us(name: str) -> None:
    with torch.device("meta"):
        shapes = {key: tensor.shape for key, tensor in timm.create_model(name).state_dict().items()}
    assert shapes == {key: tensor.shape for key, tensor in build_model(from_zoo(name)).state_dict().items()}


def test_what_timm_offers_works() -> None:
    model = timm.create_model("dna_a", num_classes=5, in_chans=1, drop_rate=0.2, drop_path_rate=0.1)
    assert model.eval()(torch.zeros(2, 1, 64, 64)).shape == (2, 5)
    assert model.drop_rate == 0.2
    assert model.blocks[-1][-1].drop_path.drop_prob > 0
    assert model.pretrained_cfg["input_size"] == (3, 224, 224)
    assert model.pretrained_cfg["pool_size"] == (7, 7)
    features = timm.create_model("dna_a", features_only=True)
    assert features.feature_info.reduction() == [2, 4, 8, 16, 32]
    assert [f.shape[1] for f in features(torch.zeros(1, 3, 64, 64))] == features.feature_info.channels()


def test_weights_that_nobody_has_are_refused_in_words() -> None:
    with pytest.raises(RuntimeError, match="dna_c: there are no weights to download; use pretrained=False"):
        timm.create_model("dna_c", pretrained=True)


def test_a_saved_network_becomes_a_model_of_timm(tmp_path: Path) -> None:
    directory = saved(ODD, tmp_path / "saved")
    timm_models.register(directory, "test_saved", mean=(0.1, 0.2, 0.3))
    model = timm.create_model("test_saved", pretrained=True).eval()
    images = torch.randn(2, 3, 18, 18)
    # the same layers and weights; their layout in memory differs, and with it the order of sums
    torch.testing.assert_close(model(images), trained(ODD)(images), rtol=0, atol=1e-5)
    assert model.pretrained_cfg["mean"] == (0.1, 0.2, 0.3)
    other = timm.create_model("test_saved", pretrained=True, num_classes=2)
    assert other.classifier.out_features == 2
    assert torch.equal(other.conv_stem.weight, model.conv_stem.weight)
    timm_models.register(directory, "test_saved")  # once more is no error: notebooks run cells twice


def test_an_export_brings_its_own_preprocessing(tmp_path: Path) -> None:
    source = find_source(str(saved(ODD, tmp_path / "saved")))
    export(source, ["timm"], tmp_path / "out")
    config = tmp_path / "out" / "timm" / "config.json"
    config.write_text(config.read_text().replace('"first_conv"', '"crop_pct": 0.7,\n"first_conv"'))
    timm_models.register(tmp_path / "out" / "timm", "test_exported")
    assert timm.create_model("test_exported").pretrained_cfg["crop_pct"] == 0.7
    config.write_text("[]")
    with pytest.raises(ValueError, match=r"config\.json: expected timm's config\.json with a pretrained_cfg"):
        timm_models.register(tmp_path / "out" / "timm", "test_exported")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet18", "is a model of timm already"),
        ("dna_a", "is a model of timm already"),
        ("a-b", "identifier"),
        ("if", "identifier"),
    ],
)
def test_a_name_that_cannot_be_is_refused(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        timm_models.register(tmp_path, name)
