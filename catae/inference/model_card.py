"""The model card: what a model was trained on, how well it does and beside what, where its limits are, how to use it.

It is laid out as Hugging Face has it (https://huggingface.co/docs/hub/model-cards; Mitchell et al. 2019,
https://arxiv.org/abs/1810.03993): facts for machines in front, prose after them. It has no picture and no path.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from catae.data import sources
from catae.model.autoencoder import AutoEncoder
from catae.report import html, run_report
from catae.run import Run
from catae.system import files

# Attribute of the score, Hugging Face's name of the metric, and ours.
METRICS = (("l1", "mae", "L1, pixels in [-1, 1]"), ("psnr", "psnr", "PSNR, dB"), ("ssim", "ssim", "SSIM"))


def write(source: Run, model: AutoEncoder, formats: Sequence[str], path: Path) -> None:
    """Writes the card of a run's model to `path`.

    Args:
        source: the run; one that has not come to its scores has a card that says so.
        model: its model.
        formats: which files lie beside the card, as in `export.FORMATS`.
        path: the Markdown file.
    """
    manifest = source.read()
    scores = manifest.get("scores")
    html.write(
        path,
        "card.md",
        package="catae.inference",
        manifest=manifest,
        settings=files.read_json(source.settings),
        label=sources.label(manifest["data"]["source"]),
        model=model,
        parameters=sum(weight.numel() for weight in model.parameters()),
        formats=formats,
        scores=_said(scores) if scores else None,
        metrics=[(kind, name, scores["model"][key]) for key, kind, name in METRICS] if scores else [],
        warning=run_report.warning(manifest["split"]),
    )


def _said(comparison: Mapping[str, Any]) -> dict[str, Any]:
    """The scores beside their references, as the report of the run has them."""
    return {
        "pictures": comparison["pictures"],
        "fitted_on": comparison["fitted_on"],
        "headings": [name.replace("\N{NO-BREAK SPACE}", " ") for _, name, _, _, _ in run_report.COLUMNS],
        "rows": run_report.score_rows(comparison),
        "verdict": run_report.verdict(comparison),
        "others": run_report.other_scores(comparison),
    }
