"""Networks of inherited blocks: they compute what the chain of blocks computes, cost what the cost model says, and are calibrated."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from toy import SPACE, toy_supernet

from dna_fast.architecture import Architecture
from dna_fast.cost import architecture_cost
from dna_fast.inherit import assemble, inherited_cells, last_feature, recalibrate
from dna_fast.supernet import Supernet

# Blocks of two widths, so neighbours of the nominal width (candidates 0..2 of block 0) and of the other one (from 3 on).
CHOICES = {
    "nominal-width": (1, 4),
    "other-width": (3 + 14, 27 + 5),
    "other-width-shallow-next": (3 + 26, 27),
    **{
        f"random-{i}": tuple(int(np.random.default_rng(i).integers(SPACE.num_candidates(b))) for b in range(2))
        for i in range(6)
    },
}
PADDINGS = ("symmetric", "same")


def images(number: int = 6, seed: int = 3) -> Tensor:
    return torch.randn(number, 3, 16, 16, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def trained(padding: str) -> Supernet:
    """A supernet as after training and calibration: biases, scales, shifts and statistics that do something."""
    supernet = toy_supernet(padding=padding, random_norms=True).double().eval()
    generator = torch.Generator().manual_seed(5)
    for module in supernet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.5, 0.5, generator)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0, generator)  # type: ignore[arg-type]
        elif isinstance(module, nn.Conv2d) and module.bias is not None:
            nn.init.uniform_(module.bias, -0.5, 0.5, generator)
    return supernet


def chain(supernet: Supernet, choice: tuple[int, ...], x: Tensor) -> Tensor:
    """The blocks one behind the other with all their adapters, as they were trained."""
    h = supernet.block(0).stem(x)
    for block, candidate in enumerate(choice):
        cell, path = supernet.space.candidate(block, candidate)
        h = supernet.block(block).cell(cell)(h, path)
    return h


def arch_of(supernet: Supernet, choice: tuple[int, ...]) -> Architecture:
    return Architecture.from_space(supernet.space, choice)


# ---- folding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("name", CHOICES)
@torch.no_grad()
def test_an_assembled_network_computes_what_its_blocks_compute(name: str, padding: str) -> None:
    supernet, x = trained(padding), images()
    found = assemble(supernet, arch_of(supernet, CHOICES[name]), num_classes=4)
    expected = chain(supernet, CHOICES[name], x)
    got = found.out_adapter(last_feature(found.model, x))
    assert (got - expected).abs().max() <= 1e-10 * expected.abs().max()
    # one precision lower: no further from the exact result than the chain, which rounds between its three products too,
    # but for what one more rounding of the folded weights can do
    low = supernet.float()
    folded = assemble(low, arch_of(low, CHOICES[name]), num_classes=4)
    own_error = (chain(low, CHOICES[name], x.float()) - expected).abs().max()
    error = (folded.out_adapter(last_feature(folded.model, x.float())) - expected).abs().max()
    assert error <= 2 * own_error + torch.finfo(torch.float32).eps * expected.abs().max()


def test_neighbours_of_other_widths_are_among_the_cases() -> None:
    widths = {SPACE.blocks[0].cells[SPACE.candidate(0, choice[0])[0]].width for choice in CHOICES.values()}
    assert widths == {6, 5}
    assert SPACE.nominal_width(1) == 6


def test_the_supernet_stays_as_it_was() -> None:
    supernet = trained("symmetric")
    before = {name: t.clone() for name, t in supernet.state_dict().items()}
    recalibrate(assemble(supernet, arch_of(supernet, (4, 30)), num_classes=4).model, [images()])
    assert all(torch.equal(t, before[name]) for name, t in supernet.state_dict().items())


# ---- costs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CHOICES)
@torch.no_grad()
def test_it_costs_what_the_cost_model_says(name: str) -> None:
    supernet = toy_supernet()
    arch, macs = arch_of(supernet, CHOICES[name]), 0
    model = assemble(supernet, arch).model

    def count(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal macs
        per_output = module.weight[0].numel()  # type: ignore[union-attr, index, operator]
        macs += output.numel() * per_output

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    model(images(1).float())
    expected = architecture_cost(arch)
    assert (sum(p.numel() for p in model.parameters()), macs) == (expected["params"], expected["macs"])


# ---- calibration ----------------------------------------------------------------------------------------------------


def norms_in_order(model: nn.Module, x: Tensor) -> Iterator[nn.BatchNorm2d]:
    seen: list[nn.BatchNorm2d] = []
    hooks = [
        m.register_forward_pre_hook(lambda m, _: seen.append(m))  # type: ignore[arg-type]
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    return iter(seen)


@pytest.mark.parametrize("padding", PADDINGS)
@torch.no_grad()
def test_statistics_are_those_of_plain_code(padding: str) -> None:
    """Plain: for every batch norm in order run the whole network on all images at once and look at its input."""
    supernet, x = trained(padding), images(7)
    arch = arch_of(supernet, CHOICES["other-width"])
    model, plain = (assemble(supernet, arch, num_classes=4).model for _ in range(2))
    plain.load_state_dict(model.state_dict())  # the heads were drawn apart
    recalibrate(model, [x[:3], x[3:6], x[6:]])
    for norm in norms_in_order(plain, x):
        seen: list[Tensor] = []
        hook = norm.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))  # type: ignore[misc]
        plain(x)
        hook.remove()
        var, mean = torch.var_mean(seen[0], dim=(0, 2, 3))
        norm.running_mean.copy_(mean)  # type: ignore[union-attr]
        norm.running_var.copy_(var)  # type: ignore[union-attr]
    for name, expected in plain.state_dict().items():
        if "running" in name:
            torch.testing.assert_close(model.state_dict()[name], expected, rtol=1e-10, atol=1e-12, msg=name)
    assert not model.training


@torch.no_grad()
def test_after_calibration_the_bias_of_adapters_is_no_matter() -> None:
    """A mean that is computed anew swallows what the fold had put there."""
    supernet, x = trained("symmetric"), images()
    arch = arch_of(supernet, CHOICES["other-width"])
    first = assemble(supernet, arch, num_classes=4).model
    before = last_feature(first, x)
    for cell, _ in inherited_cells(supernet, arch):
        if isinstance(cell.in_adapter, nn.Conv2d):
            cell.in_adapter.bias.add_(1.0)  # type: ignore[union-attr]
    second = assemble(supernet, arch, num_classes=4).model
    assert (last_feature(second, x) - before).abs().max() > 1e-3
    for model in (first, second):
        recalibrate(model, [x])
    torch.testing.assert_close(last_feature(first, x), last_feature(second, x), rtol=1e-10, atol=1e-10)


# ---- refusals -------------------------------------------------------------------------------------------------------


def test_wide_boundaries_are_refused() -> None:
    supernet = toy_supernet("wide")
    with pytest.raises(ValueError, match="needs a supernet trained with boundary: adapter, got wide"):
        assemble(supernet, arch_of(supernet, (0, 0)))


def test_networks_of_other_spaces_are_refused() -> None:
    arch = arch_of(toy_supernet(), (0, 0))
    with pytest.raises(ValueError, match="must be an architecture of the supernet's space toy"):
        assemble(toy_supernet(), Architecture("other", arch.frame, arch.blocks))
    with pytest.raises(ValueError, match="must be an architecture of the supernet's space toy"):
        assemble(toy_supernet(), Architecture("other", arch.frame, arch.blocks, (1, 0)))
