"""Commands that look images over, or lay them out, before anything expensive is done with them."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dna_fast.cli_options import EXIT_NO_ANSWER, AsJson, open_display

if TYPE_CHECKING:
    from dna_fast.data.report import Report
    from dna_fast.data.tuning import Settings
    from dna_fast.display import Display

SHOWN = 10  # unreadable files that are printed; --json lists all

data = typer.Typer(no_args_is_help=True, help="Look over images, or lay them out.")


@data.command()
def check(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="DIR",
            help="A folder of class folders, a folder that holds such folders (train, val), or a list file.",
        ),
    ],
    decode: Annotated[
        bool, typer.Option("--decode", help="Decode every image. Without: headers and ends, which shows most damage.")
    ] = False,
    speed: Annotated[bool, typer.Option(help="Measure how many images per second can be delivered here.")] = True,
    size: Annotated[int, typer.Option(min=1, help="Pixels per side of the images that a model would get.")] = 224,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads to measure with; default: as many as it takes.")
    ] = None,
    index_dir: Annotated[
        Path | None,
        typer.Option(help="Keep what was seen there: runs with data.index_dir set to it open changed files alone."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Counts, classes, odd and unreadable files, and the expected images per second.

    Exit codes: 0 every image can be read; 1 some cannot; 2 there is no such folder, or no images in it.
    """
    from dna_fast.data.report import Report, find_parts
    from dna_fast.data.survey import store_path, survey

    display = open_display()
    answers: dict[str, dict[str, Any]] = {}
    parts = find_parts(source)
    for name, listing in parts.items():
        where = source / name if len(parts) > 1 or (source / name).is_dir() else source
        store = None if index_dir is None else store_path(index_dir, where)
        if as_json:
            headers = survey(listing, store=store, decode=decode)
        else:
            with display.progress(f"checking {name}") as update:
                headers = survey(
                    listing,
                    store=store,
                    decode=decode,
                    on_progress=lambda done, total: update(done, total, "files"),
                )
        report = Report(listing, headers)
        speeds = _speeds(report, size, threads, display if not as_json else None) if speed else {}
        answers[name] = report.to_dict() | {
            "images_per_s": {
                device: {"images_per_s": found.images_per_s, "threads": found.threads, "prefetch": found.prefetch}
                for device, found in speeds.items()
            }
        }
        if not as_json:
            _print(name, answers[name], speeds, size, display)
    different = _class_differences(answers, {name: set(listing.classes) for name, listing in parts.items()})
    if as_json:
        print(json.dumps({"parts": answers, "classes_differ": different}))
    for line in () if as_json else different:
        display.say(line, style="yellow")
    if any(answer["unreadable"] for answer in answers.values()):
        raise typer.Exit(EXIT_NO_ANSWER)


@data.command()
def cifar10(
    source: Annotated[
        Path, typer.Argument(metavar="DIR", help="The unpacked binary version: data_batch_1.bin to 5, test_batch.bin.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write train/ and test/ in; must not exist yet.")],
) -> None:
    """Write CIFAR-10 as an image folder (PNG, lossless), which `data.kind: folder` with `data.eval_dir: test` reads."""
    from dna_fast.data.cifar10 import write_cifar10

    display = open_display()
    with display.progress("writing images") as update:
        place = write_cifar10(source, out, lambda done, total: update(done, total, "files"))
    display.note(f"{place}: ready for data.kind: folder, data.root: {place}, data.eval_dir: test")


def _speeds(report: Report, size: int, threads: int | None, display: Display | None) -> dict[str, Settings]:
    """Device -> settings and speed; nothing where there is nothing to measure with."""
    from dna_fast.data.report import measured_speed

    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("nvidia.dali") is None:
        if display is not None:
            display.note("speed: not measured, it needs torch and NVIDIA DALI")
        return {}
    import torch

    if len(report.faults) == len(report.headers):
        return {}
    found = {}
    for device in ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]:
        if (settings := measured_speed(report, size=size, device=device, threads=threads)) is not None:
            found[device] = settings
    return found


def _print(name: str, answer: dict[str, Any], speeds: dict[str, Settings], size: int, display: Display) -> None:
    spread, (width, height) = answer["images_per_class"], answer["median_size"]
    rows = [
        ("images", f"{answer['images']:,}, {answer['bytes'] / 1e9:,.2f} GB, median {width} x {height} pixels"),
        ("classes", f"{answer['classes']:,}, {spread['least']:,} to {spread['most']:,} images each"),
        *((f"odd: {word}", f"{odd['images']:,}, such as {odd['first']}") for word, odd in answer["odd"].items()),
        ("unreadable", f"{len(answer['unreadable']):,}"),
        *((f"images/s at {size} pixels, {device}", str(settings)) for device, settings in speeds.items()),
    ]
    for what, found in rows:
        display.say(f"{name}  {what}: {found}")
    for path, fault in list(answer["unreadable"].items())[:SHOWN]:
        display.say(f"  {path}: {fault}", style="yellow")
    if len(answer["unreadable"]) > SHOWN:
        display.say(f"  and {len(answer['unreadable']) - SHOWN:,} more; --json lists all", style="yellow")


def _class_differences(answers: dict[str, Any], classes: dict[str, set[str]]) -> list[str]:
    """Parts of one data set whose classes differ, in words: a run would refuse them."""
    lines = [
        f"{name}  no image of class {', '.join(answer['empty_classes'][:SHOWN])} can be read"
        for name, answer in answers.items()
        if answer["empty_classes"]
    ]
    everything = set().union(*classes.values())
    lines += [
        f"{name}  lacks {len(everything - held):,} class(es) of the others: {', '.join(sorted(everything - held)[:SHOWN])}"
        for name, held in classes.items()
        if everything - held
    ]
    return lines
