"""The run on one page: a self-contained HTML file that needs no network; its one script moves a slider."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from catae.data import sources
from catae.report import animation, figures, html
from catae.run import Run
from catae.system import files
from catae.system.text import count

Side = Literal["below", "level with", "above"]

LEVEL = 0.0005  # a smaller difference, as a share, would show as 0.0%

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
    "duplicates.png": "the largest groups of copies",
    "split.json": "the names of the train, test, validation and dropped pictures",
    "model.safetensors": "the weights of the epoch that was kept",
    "priors.safetensors": "the priors fitted to the train latents",
    "checkpoints/": "the training as it stood after the best epoch and after the last",
    "events/": "the log for TensorBoard",
    "curves.png": "the losses, epoch by epoch",
    "reconstructions.png": "test pictures and their restorations",
    "generated.png": "pictures of random latents of N(0, I)",
    "generated-unwhitened.png": "what the same latents gave before the codes were folded to N(0, I)",
    "generated-gaussian.png": "pictures of random latents of the Gaussian",
    "generated-best.png": "pictures of random latents of the prior that comes nearest to test pictures",
    "nearest.png": "random pictures, and the train pictures nearest to them",
    "interpolation.png": "the walk between two test pictures",
    "interpolation.gif": "the same walk, moving",
    "latents.png": "how wide the latents lie, and a map of those of test pictures",
}


PRIORS = {
    "randn": "N(0, I)",
    "gaussian": "The Gaussian",
    "mixture": "A mixture of Gaussians",
    "neighbours": "Between neighbours",
}


@dataclass(frozen=True)
class Row:
    """A line of a table: a name with a note, and numbers as text; `best` says which of them no other row betters."""

    name: str
    cells: tuple[str, ...]
    best: tuple[bool, ...] = ()
    note: str = ""
    bar: float = 0  # of scores: its L1 in per cent of the largest


def write(run: Run) -> None:
    """Writes `report.html` from the run's files: manifest, settings, data report and pictures."""
    manifest, settings, data = run.read(), files.read_json(run.settings), files.read_json(run.data)
    comparison, pictures = manifest["scores"], _pictures(run)
    steps = settings["interpolation_steps"]["value"]
    html.write(
        run.report,
        "report.html",
        manifest=manifest,
        settings=settings,
        data=data,
        label=sources.label(data["source"]),
        warning=warning(manifest["split"]),
        headline=headline(comparison),
        verdict=verdict(comparison),
        other_scores=other_scores(comparison),
        columns=[(name, good) for _, name, good, _, _ in COLUMNS],
        rows=score_rows(comparison),
        clouds=cloud_rows(manifest["latents"]),
        levels=[("Mean", ""), *((level, "") for level in manifest["generation"]["floor"]["levels"])],
        distances=distance_rows(manifest["generation"]),
        pictures=pictures,
        places=asdict(figures.places(steps + 2, data["image_size"], pictures[run.interpolation.name].height)),
        left={name: what for name, what in LEFT.items() if (run.path / name).exists()},
    )


def _pictures(run: Run) -> dict[str, html.Picture]:
    """The run's figures by name: those that show how well the model does, as they are, and the others in fewer bytes.

    The page has to stay below 3 MB, and with all of them as they are, those of real cats are 3.5.
    """
    drawn = (run.curves, run.reconstructions, run.generated, run.interpolation)
    pictures = {path.name: html.embed(path) for path in drawn}
    pictures[run.animation.name] = html.embed(run.animation, enlarged=animation.SCALE)
    beside = (run.latents, run.generated_unwhitened, run.generated_best, run.nearest, run.duplicates)
    return pictures | {path.name: html.embed(path, lossy=html.QUALITY) for path in beside if path.exists()}


def warning(parts: Mapping[str, Any]) -> str:
    """What is wrong with a split that left copies on both of its sides, in a sentence; nothing if it left none.

    Args:
        parts: the counts of the split, as in `run.json`.
    """
    copies, pixels = parts["test_copies_in_train"], parts["test_pixels_in_train"]
    if not copies and not pixels:
        return ""
    noun = "test or validation picture" if parts["validation"] else "test picture"
    held = f"{count(max(copies, pixels), noun)} of {parts['test'] + parts['validation']:,}"
    return f"Train holds copies of {held}; {pixels:,} pixel for pixel, the others nearly or mirrored."


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


def cloud_rows(latents: Mapping[str, Any]) -> list[Row]:
    """How latents lie, as the table shows it: length, effective rank, distance from N(0, I), deviations."""
    names = {
        "train": "Train pictures",
        "test": "Test pictures",
        "folded": "Test pictures, as handed out",
        "normal": "Samples of N(0, I)",
    }
    return [
        Row(
            name=shown,
            note=f"{cloud['pictures']:,}",
            cells=(
                f"{cloud['norm']:.2f}",
                f"{cloud['effective_rank']:.1f}",
                f"{cloud['distance']:.2f}",
                f"{cloud['deviations'][-1]:.2f} to {cloud['deviations'][0]:.2f}",
            ),
        )
        for shown, cloud in ((shown, latents[name]) for name, shown in names.items())
    ]


def distance_rows(measured: Mapping[str, Any]) -> list[Row]:
    """The distances of sets of pictures from test pictures, as the table shows them: the mean, then level by level."""
    sets = {
        "Train pictures": measured["floor"],
        "Restorations of the test pictures": measured["restorations"],
        **{PRIORS[name]: distance for name, distance in measured["distances"].items()},
    }
    return [
        Row(name, tuple(f"{value:.1f}" for value in (distance["mean"], *distance["levels"].values())))
        for name, distance in sets.items()
    ]


def _gap(gap: float, decimals: int, unit: str = "") -> str:
    """A difference of scores, like '0.84 dB higher' or 'the same'."""
    size = f"{abs(gap):.{decimals}f}"
    return "the same" if float(size) == 0 else f"{size}{unit} {'higher' if gap > 0 else 'lower'}"
