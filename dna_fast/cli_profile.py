"""dna-fast profile: latencies of a space on this device, or from a file, as costs for the search."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dna_fast.cli_options import AsJson, open_display, open_run

if TYPE_CHECKING:
    import torch

    from dna_fast.display import Display
    from dna_fast.profile_layers import Setting
    from dna_fast.profile_table import Profile
    from dna_fast.space import SearchSpace


def profile(
    what: Annotated[
        str, typer.Argument(metavar="RUN|SPACE", help="A run directory, a preset (dna, digits) or a space's JSON file.")
    ],
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    batch: Annotated[list[int] | None, typer.Option(help="Images per call; default 1. Repeatable.")] = None,
    dtype: Annotated[list[str] | None, typer.Option(help="float32 (default), bfloat16 or float16. Repeatable.")] = None,
    implementation: Annotated[
        list[str] | None,
        typer.Option(help="torch or fused; default: both, as far as the device can. Repeatable."),
    ] = None,
    rounds: Annotated[int, typer.Option(help="Samples of each layer.")] = 15,
    validate: Annotated[
        int, typer.Option(help="How many whole random architectures to measure: the error of sums, and a correction.")
    ] = 0,
    seed: Annotated[int, typer.Option(help="Of the architectures, and of the order in a round.")] = 0,
    out: Annotated[Path | None, typer.Option(help="The profile; default: RUN/profile.json, or profile.json.")] = None,
    csv: Annotated[
        Path | None,
        typer.Option(help="Read latencies measured elsewhere from a filled-in --template; measure nothing."),
    ] = None,
    template: Annotated[
        Path | None,
        typer.Option(help="Write every layer of the space as CSV, to be measured elsewhere; measure nothing."),
    ] = None,
    costs: Annotated[
        Path | None, typer.Option(help="Write the space's cost table with latency_us; default for RUN: its costs.npz.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Measure every layer of a space on this device; the search then takes --max latency_us=900.

    The first batch, dtype and implementation become latency_us, the others costs with longer names. Ctrl-C saves, and the same
    command goes on.
    """
    from dna_fast.profile_layers import Setting
    from dna_fast.profile_table import write_template

    is_run, display = Path(what).is_dir(), open_display(quiet=as_json)
    space = open_run(Path(what)).space if is_run else _space(what)
    batches, dtypes = batch or [1], dtype or ["float32"]
    if template is not None:
        layers = write_template(template, space, batches[0], dtypes[0])
        display.say(f"{template}: {layers} layers; fill in latency_us, then: dna-fast profile {what} --csv {template}")
        return
    path = out if out is not None else (Path(what) if is_run else Path()) / "profile.json"
    if csv is not None:
        found = _from_csv(csv, space, path)
    else:
        wanted = [(b, d) for b in batches for d in dtypes]
        names = implementation or _implementations(device)
        settings = tuple(Setting(b, d, name) for name in names for b, d in wanted)
        found = _measured(space, settings, (rounds, validate, seed), device, path, display)
    written = _write_costs(Path(what) if is_run and out is None else None, space, found, costs)
    if as_json:
        print(json.dumps({"file": str(path), "costs": [str(p) for p in written], **_summary(found, space)}))
    else:
        _print(found, space, display)
        display.note(", ".join(map(str, (path, *written))))


def _from_csv(csv: Path, space: SearchSpace, path: Path) -> Profile:
    """Reads latencies measured elsewhere and keeps them; nothing is written where a layer of the space is missing."""
    from dna_fast.cost import cost_table
    from dna_fast.profile_table import Profile, add_latencies, check_device, read_csv

    found = read_csv(csv, csv.stem)
    try:
        add_latencies(cost_table(space), found)
    except ValueError as error:
        raise ValueError(f"{csv}: {error}") from error
    if path.exists():
        check_device(path, Profile.load(path).device, found.device)
    found.save(path)
    return found


def _write_costs(run: Path | None, space: SearchSpace, found: Profile, costs: Path | None) -> list[Path]:
    """Writes the cost tables with latencies; `run` is the run whose own profile this is."""
    from dna_fast.cost import cost_table
    from dna_fast.profile_table import add_latencies

    written = []
    if run is not None or costs is not None:
        table = add_latencies(cost_table(space), found)
        for path in (costs, None if run is None else run / "costs.npz"):
            if path is not None:
                table.save(path)
                written.append(path)
    return written


def _space(what: str) -> SearchSpace:
    from dna_fast.space import PRESETS, SearchSpace, preset

    if what not in PRESETS and not Path(what).is_file():
        raise ValueError(
            f"profile: expected a run directory, {', '.join(PRESETS)} or a space's JSON file, got {what!r}"
        )
    return preset(what) if what in PRESETS else SearchSpace.from_file(what)


def _device(name: str) -> torch.device:
    import torch

    if name not in ("cpu", "cuda"):
        raise ValueError(f"--device: expected cpu or cuda, got {name!r}")
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("--device cuda was asked for, but torch finds no GPU it can use (see: dna-fast info)")
    return torch.device(name)


def _implementations(device: str) -> tuple[str, ...]:
    from dna_fast.profile import implementations

    return implementations(_device(device))


def _measured(
    space: SearchSpace,
    settings: tuple[Setting, ...],
    counts: tuple[int, int, int],  # rounds, networks, seed
    device: str,
    path: Path,
    display: Display,
) -> Profile:
    import numpy as np

    from dna_fast.profile import Plan, measure, spread_networks

    rounds, networks, seed = counts
    drawn, order = (np.random.Generator(np.random.Philox(np.random.SeedSequence((seed, i)))) for i in range(2))
    plan = Plan(space, settings, spread_networks(space, networks, drawn), rounds)
    with display.progress("profile") as update:

        def on_sample(done: int, total: int) -> None:
            update(done, total, "samples")

        return measure(plan, path, _device(device), order, on_sample=on_sample)


def _summary(found: Profile, space: SearchSpace) -> dict[str, Any]:
    """The device and, per setting, what was measured and how far sums are from whole networks."""
    rows = []
    for setting in found.settings:
        fit = found.fit(space, setting)
        timings = [timing for (_, own), timing in found.layers.items() if own == setting]
        peaks = [t.peak_bytes for (_, own), t in found.networks.items() if own == setting and t.peak_bytes is not None]
        rows.append(
            {
                **asdict(setting),
                "layers": len(timings),
                "kept_in_torch": sum(bool(timing.kept) for timing in timings),
                "spread": median((t.spread_us[1] - t.spread_us[0]) / t.median_us for t in timings),
                "fit": None if fit is None else {**asdict(fit), "helps": fit.helps},
                "peak_activation_bytes": [min(peaks), max(peaks)] if peaks else None,
            }
        )
    return {"device": found.device, "settings": rows}


def _print(found: Profile, space: SearchSpace, display: Display) -> None:
    summary = _summary(found, space)
    display.say(", ".join(f"{name} {value}" for name, value in summary["device"].items()))
    display.table(
        ("batch", "dtype", "by", "layers", "kept in torch", "quartiles apart"),
        [
            (s["batch"], s["dtype"], s["implementation"], s["layers"], s["kept_in_torch"], f"{s['spread']:.1%}")
            for s in summary["settings"]
        ],
    )
    for s in summary["settings"]:
        name = f"batch {s['batch']}, {s['dtype']}, {s['implementation']}"
        if (fit := s["fit"]) is not None:
            before, after = fit["before"], fit["after"]
            use = "used" if fit["helps"] else "not used, it does not help"
            display.say(
                f"{name}: sums over layers are {before['mean']:.1%} from {fit['networks']} whole networks (worst "
                f"{before['worst']:.1%}, mean {before['bias']:+.1%}); corrected to {fit['offset_us']:.0f} us + "
                f"{fit['factor']:.3f} x sum, {after['mean']:.1%} from networks left out of the fit (worst {after['worst']:.1%}); "
                f"{use}"
            )
        if s["peak_activation_bytes"] is not None:
            low, high = s["peak_activation_bytes"]
            display.say(f"{name}: activations of whole networks take at most {low:,} to {high:,} bytes")
