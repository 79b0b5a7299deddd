"""The network in other people's formats."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Annotated, Any

import typer

from dna_fast.cli_options import AsJson, open_display


def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A run directory (its models/found), a directory with model.safetensors and architecture.json, an architecture file, "
            "or dna_a .. dna_d, efficientnet_b0. The last two have no weights: random ones are exported.",
        ),
    ],
    to: Annotated[
        str,
        typer.Option(metavar="FORMATS", help="Of timm, torch-export, onnx, safetensors, with commas between; or all."),
    ],
    out: Annotated[Path, typer.Option(help="Directory to write to.")],
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="Another of the run's models; default: found.")
    ] = None,
    opset: Annotated[int | None, typer.Option(help="Of ONNX; default: what torch's exporter chooses.")] = None,
    as_json: AsJson = False,
) -> None:
    """Export a network: timm code with weights, torch.export, ONNX, safetensors.

    Every file is read back and compared with the torch model, on random and on real images, in batches of 1 and 3, against float64
    and what rounding explains. One that is further off is not kept. OUT/export.json says what was written and how far it is off.
    """
    from dna_fast.export_formats import describe_random
    from dna_fast.export_job import RECORD_FILE, parse_formats
    from dna_fast.export_job import export as export_to
    from dna_fast.export_source import find_source

    formats = parse_formats(to)
    if opset is not None and "onnx" not in formats:
        raise ValueError(f"--opset {opset}: goes with --to onnx, and --to is {to}")
    display, found = open_display(), find_source(source, model)
    if (warning := describe_random(found)) is not None:
        logging.getLogger(__name__).warning(warning)  # on standard error, so beside --json too

    def tell(name: str, record: dict[str, Any]) -> None:
        worst = max(record["checks"], key=lambda check: check["error"] / (check["tolerance"] or 1.0))
        extra = f", opset {record['opset']}" if "opset" in record else ""
        display.say(
            f"{name}{extra}: {', '.join(record['files'])}; off by {worst['error']:.1e}, rounding explains {worst['tolerance']:.1e}"
        )

    record = export_to(found, formats, out, opset=opset, on_done=None if as_json else tell)
    if as_json:
        print(json.dumps(record))
    else:
        display.note(f"{out / RECORD_FILE}: checked on random images and {found.images_from}")
