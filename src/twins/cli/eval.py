"""`twins eval`: a trained network on a data set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tyro.conf import Positional

from twins.cli.parse import parse


@dataclass(frozen=True, kw_only=True)
class EvalArgs:
    """Measure a network on a data set's held-out images; the protocol is printed and saved with the numbers."""

    model: Positional[str]
    """Run folder, checkpoint or published name."""
    data: str
    """Folder with one folder per class (or with train and val in it), or `digits`."""
    out: str | None = None
    """File to write the result to, as JSON."""
    batch_size: int = 32
    """Images per forward pass."""
    workers: int = 0
    """Processes that load images."""
    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """What computes."""
    size: int | None = None
    """Side of the input in pixels; unset is the network's own, as for crop and padding."""
    crop: float | None = None
    """Share of the resized image's shorter side that the centre crop keeps."""
    padding: Literal["exact", "reference", "unmasked"] | None = None
    """How local attention treats borders."""
    seed: int | None = None
    """Chooses what is held out of a folder without a validation part; unset is as the run did."""
    val_share: float | None = None
    """Share held out of a folder without a validation part; unset is as the run did."""


def run(arguments: list[str]) -> int:
    """Print the numbers, the protocol and the weakest classes."""
    args = parse(EvalArgs, "eval", arguments)
    from twins.evaluation import evaluate

    result = evaluate(
        args.model,
        args.data,
        out=args.out,
        batch_size=args.batch_size,
        workers=args.workers,
        device=args.device,
        size=args.size,
        crop=args.crop,
        padding=args.padding,
        seed=args.seed,
        val_share=args.val_share,
    )
    protocol = result["protocol"]
    print(
        f"{protocol['model']} on {protocol['images']} images of {protocol['data']} ({protocol['split']}): "
        f"size {protocol['size']}, crop {protocol['crop']:g}, {protocol['interpolation']}, "
        f"padding {protocol['padding']}, {protocol['precision']} on {protocol['device']}"
    )
    for name, value in result["metrics"].items():
        print(f"  {name:<20} {100 * value:6.2f} %")
    seen = [row for row in result["per_class"] if row["support"]]
    for row in sorted(seen, key=lambda row: row["recall"])[:5]:
        print(f"  class {row['name']}: {100 * row['recall']:.1f} % of {row['support']} found")
    if result["skipped"]:
        print(f"  {len(result['skipped'])} images could not be read and are not counted")
    return 0
