"""Write the report of a run: one self-contained HTML page without network requests; its one script moves a slider."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from catae.data import sources
from catae.data.ingest import DataReport
from catae.report import animation, data_report, figures, html, tables
from catae.report.tables import Cell, Table
from catae.run import Run
from catae.system import files
from catae.system.text import count

Side = Literal["below", "level with", "above"]

LEVEL = 0.0005  # relative; a smaller difference would be shown as 0.0%

# Key of the score, heading, note, whether lower is better, decimals.
COLUMNS = (
    ("l1", "L1 in [-1, 1]", "lower is better", True, 4),
    ("l1_unit", "L1 in [0, 1]", "lower is better", True, 4),
    ("psnr", "PSNR, dB", "higher is better", False, 2),
    ("ssim", "SSIM", "higher is better", False, 4),
)

FILES = {
    "report.html": "the whole run on one page",
    "run.json": "the facts of the run, for machines",
    "settings.json": "every setting, and where its value came from",
    "data.json": "what was read from the source, and what was not",
    "duplicates.png": "the largest groups of duplicates",
    "split.json": "the names of the train, test, validation and dropped images",
    "model.safetensors": "the weights of the best epoch",
    "priors.safetensors": "the priors fitted to the train latents",
    "checkpoints/": "the state of training after the best and the last epoch",
    "events/": "the log for TensorBoard",
    "curves.png": "the losses by epoch",
    "reconstructions.png": "test images and their reconstructions",
    "generated.png": "samples of N(0, I)",
    "generated-unwhitened.png": "samples of the same latents before whitening",
    "generated-gaussian.png": "samples of the Gaussian fitted to the train latents",
    "generated-best.png": "samples of the prior that is nearest to the test images",
    "nearest.png": "samples and the train images nearest to them",
    "interpolation.png": "the interpolation between two test images",
    "interpolation.gif": "the same interpolation, animated",
    "latents.png": "the standard deviations of the latents, and a map of the test images",
}

PRIORS = {
    "randn": "Samples of N(0, I)",
    "gaussian": "Samples of a Gaussian",
    "mixture": "Samples of a mixture of Gaussians",
    "neighbours": "Samples between neighbours",
}


def write_run_report(run: Run) -> None:
    """Write `report.html` from the run's manifest, settings, data report and figures."""
    manifest, settings = run.read(), files.read_json(run.settings)
    data = DataReport(**files.read_json(run.data))
    scores, images, parts = manifest["scores"], _embed_figures(run), manifest["split"]
    frames = settings["interpolation_steps"]["value"] + 2  # with the two test images
    html.write_page(
        run.report,
        "report.html",
        manifest=manifest,
        settings=settings,
        data=data,
        label=sources.label(data.source),
        warning=leak_warning(parts),
        headline=headline(scores),
        verdict=verdict(scores),
        other_scores=other_scores(scores),
        pca=pca_name(scores),
        scores=score_table(scores),
        bars=score_bars(scores),
        latents=latent_table(manifest["latents"]),
        distances=distance_table(manifest["generation"]),
        prior_names=PRIORS,
        leak=f"{data_report.leak_sentence(data)}; this split leaves {parts['test_copies_in_train']:,}.",
        images=images,
        layout=asdict(figures.grid_layout(frames, data.image_size, images[run.interpolation.name].height)),
        files=present_files(run, without=run.report.name),
        **data_report.page_facts(data, "listed in data.json"),
    )


def _embed_figures(run: Run) -> dict[str, html.EmbeddedImage]:
    """Return the run's figures by name. Those that show how well the model does are lossless, the others lossy.

    The page must stay below 3 MB. With all of them lossless, a report of real cats has 3.5 MB.
    """
    lossless = (run.curves, run.reconstructions, run.generated, run.interpolation)
    images = {path.name: html.embed_file(path) for path in lossless}
    images[run.animation.name] = html.embed_file(run.animation, scale=animation.SCALE)
    lossy = (run.latents, run.generated_unwhitened, run.generated_best, run.nearest, run.duplicates)
    return images | {path.name: html.embed_file(path, quality=html.QUALITY) for path in lossy if path.exists()}


def present_files(run: Run, without: str = "") -> dict[str, str]:
    """Return the files that the run's folder holds, and what each is."""
    return {name: what for name, what in FILES.items() if name != without and (run.path / name).exists()}


def leak_warning(parts: Mapping[str, Any]) -> str:
    """Return a sentence on test images that have duplicates in train; empty if there are none.

    Args:
        parts: the counts of the split, as in `run.json`.
    """
    duplicates, identical = parts["test_copies_in_train"], parts["test_pixels_in_train"]
    if not duplicates and not identical:
        return ""
    noun = "test or validation image" if parts["validation"] else "test image"
    leaked = f"{count(max(duplicates, identical), noun)} (of {parts['test'] + parts['validation']:,})"
    return (
        f"The train set holds duplicates of {leaked}: {identical:,} identical, the others near-duplicates or flipped."
    )


def side(value: float, reference: float) -> Side:
    """Return on which side of `reference` a value is; a difference too small to be shown is level."""
    if abs(value - reference) <= LEVEL * abs(reference):
        return "level with"
    return "below" if value < reference else "above"


def difference(value: float, reference: float) -> str:
    """Return the relative difference, like '12% below', '3.4% above' or 'level with'."""
    where = side(value, reference)
    if where == "level with" or reference == 0:
        return where
    percent = 100 * abs(value - reference) / abs(reference)
    return f"{percent:.{1 if percent < 10 else 0}f}% {where}"


def pca_name(scores: Mapping[str, Any]) -> str:
    """Return the name of the PCA baseline with its number of components, like 'PCA-128'."""
    return f"PCA-{scores['pca_components']}"


def headline(scores: Mapping[str, Any]) -> str:
    """Return whether the model's L1 error beats PCA, and whether it fails to beat the mean image."""
    model, pca, mean = (scores[name]["l1"] for name in ("model", "pca", "mean_picture"))
    outcome = {"below": "beats", "level with": "is level with", "above": "loses to"}[side(model, pca)]
    failure = "" if side(model, mean) == "below" else ", and is no better than the mean image"
    return f"In L1 error, the model {outcome} {pca_name(scores)}{failure}."


def verdict(scores: Mapping[str, Any]) -> str:
    """Return the model's L1 error compared with PCA and the mean image, in one sentence with its numbers."""
    model, pca, mean = (scores[name]["l1"] for name in ("model", "pca", "mean_picture"))
    return (
        f"On {count(scores['pictures'], 'test image')}, the model's L1 error is {model:.4f}: "
        f"{difference(model, pca)} {pca_name(scores)} ({pca:.4f}) and "
        f"{difference(model, mean)} the mean image ({mean:.4f})."
    )


def other_scores(scores: Mapping[str, Any]) -> str:
    """Return how the model's PSNR and SSIM compare with PCA's, which need not agree with L1."""
    model, pca = scores["model"], scores["pca"]
    return (
        f"Compared with {pca_name(scores)}, the model's PSNR is {_gap(model['psnr'] - pca['psnr'], 2, ' dB')} "
        f"and its SSIM is {_gap(model['ssim'] - pca['ssim'], 4)}."
    )


def _score_names(scores: Mapping[str, Any]) -> dict[str, str]:
    return {"model": "Model", "pca": pca_name(scores), "mean_picture": "Mean image"}


def score_table(scores: Mapping[str, Any]) -> Table:
    """Return the scores of the model, of PCA and of the mean image as a table."""
    names = _score_names(scores)
    best = {key: (min if lower else max)(scores[name][key] for name in names) for key, _, _, lower, _ in COLUMNS}
    return Table(
        title="",
        columns=(tables.column("Reconstruction by"), *(tables.column(c[1], note=c[2], numeric=True) for c in COLUMNS)),
        rows=tuple(
            tables.row(
                shown,
                *(
                    Cell(f"{scores[name][key]:.{decimals}f}", best=scores[name][key] == best[key])
                    for key, _, _, _, decimals in COLUMNS
                ),
            )
            for name, shown in names.items()
        ),
    )


def score_bars(scores: Mapping[str, Any]) -> list[tuple[str, str, float]]:
    """Return the L1 errors as bars: name, value, and length in per cent of the longest."""
    longest = max(scores[name]["l1"] for name in _score_names(scores)) or 1
    return [
        (shown, f"{scores[name]['l1']:.4f}", 100 * scores[name]["l1"] / longest)
        for name, shown in _score_names(scores).items()
    ]


def latent_table(latents: Mapping[str, Any]) -> Table:
    """Return the statistics of latents as a table: norm, effective rank, distance from N(0, I), deviations."""
    names = {
        "train": "Train images",
        "test": "Test images",
        "folded": "Test images, whitened",
        "normal": "Samples of N(0, I)",
    }
    return Table(
        title="",
        columns=(
            tables.column("Latents of"),
            tables.column("Norm", note="mean", numeric=True),
            tables.column("Rank", note="effective", numeric=True),
            tables.column("Distance", note="from N(0, I)", numeric=True),
            tables.column("Deviations", note="min to max", numeric=True),
        ),
        rows=tuple(
            tables.row(
                Cell(shown, note=f"{stats['pictures']:,}"),
                f"{stats['norm']:.2f}",
                f"{stats['effective_rank']:.1f}",
                f"{stats['distance']:.2f}",
                f"{stats['deviations'][-1]:.2f} to {stats['deviations'][0]:.2f}",
            )
            for shown, stats in ((shown, latents[name]) for name, shown in names.items())
        ),
    )


def distance_table(generation: Mapping[str, Any]) -> Table:
    """Return the distances of sets of images from the test images as a table: the mean, then each resolution."""
    sets = {
        "Train images": generation["floor"],
        "Reconstructions of the test images": generation["restorations"],
        **{PRIORS[name]: distance for name, distance in generation["distances"].items()},
    }
    return Table(
        title="",
        columns=(
            tables.column("Images"),
            *(tables.column(name, numeric=True) for name in ("Mean", *generation["floor"]["levels"])),
        ),
        rows=tuple(
            tables.row(shown, *(f"{value:.1f}" for value in (distance["mean"], *distance["levels"].values())))
            for shown, distance in sets.items()
        ),
    )


def file_table(run: Run) -> Table:
    """Return the files of the run, what each is, and its size."""
    return Table(
        title="",
        columns=(tables.column("File", code=True), tables.column("Content"), tables.column("MB", numeric=True)),
        rows=tuple(
            tables.row(name, what, f"{_size(run.path / name) / 1e6:.2f}") for name, what in present_files(run).items()
        ),
    )


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*")) if path.is_dir() else path.stat().st_size


def _gap(gap: float, decimals: int, unit: str = "") -> str:
    """Return a difference of scores, like '0.84 dB higher' or 'the same'."""
    size = f"{abs(gap):.{decimals}f}"
    return "the same" if float(size) == 0 else f"{size}{unit} {'higher' if gap > 0 else 'lower'}"
