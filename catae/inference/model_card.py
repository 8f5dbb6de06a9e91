"""Write a model card: the training data, the scores next to baselines, the limits, and how to use the model.

It has Hugging Face's layout (https://huggingface.co/docs/hub/model-cards; Mitchell et al. 2019,
https://arxiv.org/abs/1810.03993): metadata in front, prose after it. It has no images and no paths.
"""

from collections.abc import Sequence
from pathlib import Path

from catae.data import sources
from catae.model.autoencoder import AutoEncoder
from catae.report import html, run_report, tables
from catae.run import Run
from catae.system import files

# Key of the score, Hugging Face's name of the metric, and its name for people.
METRICS = (("l1", "mae", "L1, pixels in [-1, 1]"), ("psnr", "psnr", "PSNR, dB"), ("ssim", "ssim", "SSIM"))


def write_model_card(source: Run, model: AutoEncoder, formats: Sequence[str], path: Path) -> None:
    """Write the card of a run's model to `path`.

    Args:
        source: the run. If it was not evaluated, the card says that there are no scores.
        model: its model.
        formats: the files next to the card, as in `export.FORMATS`.
        path: the Markdown file.
    """
    manifest = source.read()
    scores = manifest.get("scores")
    html.write_page(
        path,
        "card.md",
        package="catae.inference",
        manifest=manifest,
        settings=files.read_json(source.settings),
        label=sources.label(manifest["data"]["source"]),
        model=model,
        parameters=sum(weight.numel() for weight in model.parameters()),
        formats=formats,
        scores=scores,
        table=tables.to_markdown(run_report.score_table(scores)) if scores else "",
        sentences=f"{run_report.verdict(scores)} {run_report.other_scores(scores)}" if scores else "",
        metrics=[(kind, name, scores["model"][key]) for key, kind, name in METRICS] if scores else [],
        warning=run_report.leak_warning(manifest["split"]),
    )
