"""The run on one page: a self-contained HTML file that needs no network and no script."""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image, ImageSequence

from catae import figures, files, sources
from catae.run import Run

Side = Literal["below", "level with", "above"]

LEVEL = 0.0005  # a smaller difference, as a share, would show as 0.0%
NAMES = 20  # of rejected files
FEW = 5  # groups of copies, names in a group, files passed over
KINDS = 8  # of sizes and of modes

# Attribute of the score, heading, what is good, whether less is better, decimals.
COLUMNS = (
    ("l1", "L1 in [-1,\N{NO-BREAK SPACE}1]", "less is better", True, 4),
    ("l1_unit", "L1 in [0,\N{NO-BREAK SPACE}1]", "less is better", True, 4),
    ("psnr", "PSNR, dB", "more is better", False, 2),
    ("ssim", "SSIM", "more is better", False, 4),
)

# What a run leaves behind beside this page, and what each file is.
LEFT = {
    "run.json": "the facts of the run, for machines",
    "settings.json": "every setting, and where it came from",
    "data.json": "what was read, and what was not",
    "split.json": "the names of the train, test and dropped pictures",
    "model.safetensors": "the weights of the epoch that was kept",
    "prior.safetensors": "the Gaussian of the train latents",
    "checkpoints/": "the training as it stood after the best epoch and after the last",
    "events/": "the log for TensorBoard",
    "curves.png": "the losses, epoch by epoch",
    "reconstructions.png": "test pictures and their restorations",
    "generated.png": "pictures of random latents of N(0, I)",
    "generated-gaussian.png": "pictures of random latents of the Gaussian",
    "interpolation.png": "the walk between two test pictures",
    "interpolation.gif": "the same walk, moving",
}


@dataclass(frozen=True)
class Picture:
    """A picture inside the page: its address, which holds it, and the size in pixels to show it at."""

    address: str
    width: int
    height: int


@dataclass(frozen=True)
class Row:
    """A restorer's scores, as text; `best` says which of them no other restorer betters."""

    name: str
    cells: tuple[str, ...]
    best: tuple[bool, ...]
    bar: float  # its L1 in per cent of the largest


def write(run: Run) -> None:
    """Writes `report.html` from the run's files: manifest, settings, data report and pictures."""
    environment = Environment(
        loader=PackageLoader("catae"),
        autoescape=True,  # the names of files can hold anything
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(count=count, duration=duration, first=first, moment=moment)
    manifest, settings, data = run.read(), files.read_json(run.settings), files.read_json(run.data)
    comparison = manifest["scores"]
    page = environment.get_template("report.html").render(
        manifest=manifest,
        settings=settings,
        data=data,
        label=sources.label(data["source"]),
        headline=headline(comparison),
        verdict=verdict(comparison),
        other_scores=other_scores(comparison),
        columns=COLUMNS,
        rows=score_rows(comparison),
        pictures={
            path.name: embed(path)
            for path in (run.curves, run.reconstructions, run.generated, run.generated_gaussian, run.interpolation)
        }
        | {run.animation.name: embed(run.animation, enlarged=figures.FRAME_SCALE)},
        left={name: what for name, what in LEFT.items() if (run.path / name).exists()},
        limits={"names": NAMES, "few": FEW, "kinds": KINDS},
    )
    files.write_bytes(run.report, page.encode())


def embed(path: Path, enlarged: int = 1) -> Picture:
    """The picture in the file `path`, as lossless WebP: the same pixels at the same pace, in less than half the bytes.

    The grids and the animation of a run have 5 MB as PNG and GIF, and a third on top in base64.

    Args:
        path: a PNG or GIF.
        enlarged: how many times as large as it need be each pixel is drawn in it: the browser can do that itself.
    """
    with Image.open(path) as picture:
        width, height = picture.size
        small = (width // enlarged, height // enlarged)
        timed = [
            (frame.convert("RGB").resize(small, Image.Resampling.NEAREST), frame.info.get("duration", 0))
            for frame in ImageSequence.Iterator(picture)
        ]
    frames = [frame for frame, _ in timed]
    buffer = io.BytesIO()
    frames[0].save(
        buffer,
        "WEBP",
        lossless=True,
        save_all=True,
        append_images=frames[1:],
        duration=[pace for _, pace in timed],
        minimize_size=True,
    )
    return Picture(f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}", width, height)


def side(value: float, reference: float) -> Side:
    """Where `value` stands against `reference`; what differs by less than is shown is level."""
    if abs(value - reference) <= LEVEL * abs(reference):
        return "level with"
    return "below" if value < reference else "above"


def difference(value: float, reference: float) -> str:
    """How far `value` stands from `reference`, like '12% below', '3.4% above' or 'level with'."""
    where = side(value, reference)
    if where == "level with" or reference == 0:
        return where
    percent = 100 * abs(value - reference) / abs(reference)
    return f"{percent:.{1 if percent < 10 else 0}f}% {where}"


def headline(comparison: Mapping[str, Any]) -> str:
    """Whether the model beats PCA or loses to it, in a few words, and whether it fails even the mean picture."""
    model, pca, mean = (comparison[name]["l1"] for name in ("model", "pca", "mean_picture"))
    outcome = {"below": "beats PCA", "level with": "is level with PCA", "above": "loses to PCA"}[side(model, pca)]
    failure = "" if side(model, mean) == "below" else ", and is no better than the mean picture"
    return f"In L1 error, the model {outcome}{failure}."


def verdict(comparison: Mapping[str, Any]) -> str:
    """The model's L1 error against those of PCA and of the mean picture, in one sentence with its numbers."""
    model, pca, mean = (comparison[name]["l1"] for name in ("model", "pca", "mean_picture"))
    components = count(comparison["pca_components"], "component")
    return (
        f"On {count(comparison['pictures'], 'test picture')} its error of {model:.4f} is {difference(model, pca)} "
        f"that of a PCA with {components} ({pca:.4f}), and {difference(model, mean)} that of the mean picture "
        f"({mean:.4f})."
    )


def other_scores(comparison: Mapping[str, Any]) -> str:
    """How the model stands against PCA in PSNR and SSIM, which need not agree with L1."""
    model, pca = comparison["model"], comparison["pca"]
    return (
        f"Against PCA, the model's PSNR is {_gap(model['psnr'] - pca['psnr'], 2, ' dB')}, "
        f"and its SSIM is {_gap(model['ssim'] - pca['ssim'], 4)}."
    )


def score_rows(comparison: Mapping[str, Any]) -> list[Row]:
    """The scores of the model, of PCA and of the mean picture, as the table shows them."""
    names = {
        "model": "Model",
        "pca": f"PCA, {count(comparison['pca_components'], 'component')}",
        "mean_picture": "Mean picture",
    }
    best = {key: (min if less else max)(comparison[name][key] for name in names) for key, _, _, less, _ in COLUMNS}
    longest = max(comparison[name]["l1"] for name in names) or 1
    return [
        Row(
            name=shown,
            cells=tuple(f"{comparison[name][key]:.{decimals}f}" for key, _, _, _, decimals in COLUMNS),
            best=tuple(comparison[name][key] == best[key] for key, *_ in COLUMNS),
            bar=100 * comparison[name]["l1"] / longest,
        )
        for name, shown in names.items()
    ]


def count(number: int, noun: str) -> str:
    """A number of things, like '1 picture' or '1,690 pictures'."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def duration(seconds: float) -> str:
    """A time for people, like '0.73 s', '42 s', '12 min 30 s' or '1 h 5 min'."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes == 0:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def first(items: Sequence[Any] | Mapping[str, Any], limit: int) -> tuple[list[Any], int]:
    """The first items (of a mapping, its pairs), and how many more there are."""
    everything = list(items.items()) if isinstance(items, Mapping) else list(items)
    return everything[:limit], max(0, len(everything) - limit)


def moment(iso: str) -> str:
    """A time of `run.json` for people, like '24 November 2026, 17:18 UTC'."""
    then = datetime.fromisoformat(iso).astimezone(UTC)
    return f"{then.day} {then:%B %Y, %H:%M} UTC"


def _gap(gap: float, decimals: int, unit: str = "") -> str:
    """A difference of scores, like '0.84 dB higher' or 'the same'."""
    size = f"{abs(gap):.{decimals}f}"
    return "the same" if float(size) == 0 else f"{size}{unit} {'higher' if gap > 0 else 'lower'}"
