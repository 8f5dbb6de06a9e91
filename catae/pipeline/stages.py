"""The steps that every training has, with Prefect or without: read, divide, train, hand out.

Each leaves its files and its facts in the run's folder, and the next one starts from there.
"""

import logging
from dataclasses import asdict
from pathlib import Path

from catae.data import ingest, loader, split
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.latent import priors, space, stats, whitening
from catae.model import weights
from catae.report import data_report as inspection
from catae.run import Run
from catae.settings import Settings
from catae.system import files
from catae.training import preflight, trainer
from catae.training.trainer import Outcome

logger = logging.getLogger(__name__)


def read(run: Run, settings: Settings) -> Path:
    """Decodes the source's pictures; gives the image set's folder.

    Raises:
        UserError: as `store.read`, or the pictures have changed since this very run, asked for by its id, began.
    """
    files.check_room(run.path, preflight.room(settings))  # before anything is waited for
    sets = settings.output_dir / "cache"
    image_set, data_report = ingest.read(settings.source, sets, settings.image_size, settings.on_reject)
    if run.read().get("digests", {}).get("data", image_set.digest) != image_set.digest:
        changed = f"the pictures of {settings.source} have changed since run {run.id} was interrupted"
        if settings.resume != "auto":
            raise UserError(f"{changed}; start a new run with --resume never (CATAE_RESUME)")
        logger.warning("%s: it begins anew", changed)  # a job on a schedule must not stand still
    files.write_json(run.data, data_report.to_dict())
    inspection.draw_copies(image_set, data_report, run.duplicates)
    run.record(
        data={
            "source": settings.source,
            "pictures": data_report.pictures,
            "distinct": data_report.distinct,
            "mirrored": data_report.mirrored,
            "near": data_report.near,
            "rejects": len(data_report.rejects),
            "store": str(image_set.path.resolve()),
        },
        digests={"data": image_set.digest},
    )
    return image_set.path


def divide(run: Run, images_path: Path, settings: Settings) -> None:
    """Decides by content which picture is train and which is test."""
    counts = split.write(ImageStore(images_path), settings, settings, run.split)
    digest = counts.pop("digest")
    run.record(split=counts, digests=run.read()["digests"] | {"split": digest})


def divided(run: Run, images_path: Path) -> tuple[ImageStore, split.Split]:
    """The run's pictures, read from their folder, and their split."""
    image_set = ImageStore(images_path)
    return image_set, split.open_split(run.split, image_set.names)


def finalize(run: Run, images_path: Path, settings: Settings, outcome: Outcome) -> None:
    """Keeps the weights of the best epoch, with codes like N(0, I), and the priors of the train codes."""
    image_set, parts = divided(run, images_path)
    model = trainer.kept(run.checkpoints)
    # What is fitted to so many codes has no use for the digits that float32 would take three times as long for.
    arithmetic = trainer.PRECISIONS[outcome.precision]
    encoded = space.encode(model, loader.ordered_loader(image_set, parts.train), arithmetic)
    cloud = stats.describe(encoded)
    fitted = priors.fit(whitening.fold(model, encoded), settings.seed)
    weights.save(model, run.model)
    priors.save(fitted, run.priors)
    run.record(
        training=asdict(outcome),
        latents={"train": asdict(cloud)},  # here, since to encode all train pictures once more takes long
        digests=run.read()["digests"] | {"weights": files.digest(run.model)},
    )
