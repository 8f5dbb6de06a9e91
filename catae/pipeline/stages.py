"""The stages of a run, and their order: read, split, train, draw, measure, report.

Each stage reads what earlier stages left in the run's folder, and adds its own files and facts. The same functions run
under Prefect, in `catae fit`, in tests and in benchmarks.
"""

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict

from catae.data import image_store, ingest, loader, sources
from catae.data import split as splits
from catae.data.image_store import ImageStore
from catae.errors import UserError
from catae.evaluation import reconstruction, samples
from catae.inference import gallery, latent_map
from catae.inference.interpolate import draw_interpolation
from catae.latent import priors, space, stats, whitening
from catae.model import weights
from catae.pipeline import launcher, tracking
from catae.pipeline.inputs import image_folder, load_inputs
from catae.report import data_report, figures, run_report
from catae.run import Run
from catae.settings import Settings, hyperparameters
from catae.system import files, rng
from catae.training import loop, metrics, preflight, tensorboard, trainer
from catae.training.distributed import SINGLE, World
from catae.training.loop import Outcome
from catae.training.metrics import Epoch

logger = logging.getLogger(__name__)

Stage = Callable[[Run, Settings], object]
SHOWN = 32  # test images in reconstructions.png


def read(run: Run, settings: Settings) -> None:
    """Decode the images of the source and record what was found.

    Raises:
        UserError: the images cannot be read, the disk is too small, or the run was named with `--resume` and its images
            have changed since.
    """
    files.check_free_space(run.path, preflight.disk_needed(settings))  # first: downloading and decoding may take long
    image_set, report = ingest.read(
        settings.source, settings.output_dir / "cache", settings.image_size, settings.on_reject
    )
    if run.read().get("digests", {}).get("data", image_set.digest) != image_set.digest:
        changed = f"the images of {settings.source} have changed since run {run.id} was interrupted"
        if settings.resume != "auto":
            raise UserError(f"{changed}; start a new run with --resume never (CATAE_RESUME)")
        logger.warning("%s: it starts again from the first epoch", changed)  # a scheduled job must not get stuck
    files.write_json(run.data, report.to_dict())
    if skipped := ingest.describe_skipped(report):
        logger.warning("%s; %s lists them", skipped, run.data)
    data_report.draw_duplicates(image_set, report, run.duplicates)
    run.record(
        data={
            "source": settings.source,
            "pictures": report.pictures,
            "distinct": report.distinct,
            "mirrored": report.mirrored,
            "near": report.near,
            "rejects": len(report.rejects),
            "unsupported": len(report.unsupported),
            "store": str(image_set.path.resolve()),
        },
        digests={"data": image_set.digest},
    )


def split(run: Run, settings: Settings) -> None:
    """Assign each image to train, test or validation by its content."""
    counts = splits.create_split(ImageStore(image_folder(run)), settings, settings, run.split)
    digest = counts.pop("digest")
    run.record(split=counts, digests=run.read()["digests"] | {"split": digest})


def train(
    run: Run,
    settings: Settings,
    after_epoch: Callable[[Epoch, int], None] = metrics.log,
    world: World | None = None,
) -> Outcome:
    """Train the model, then export the weights of the best epoch.

    Args:
        run: the run, with its images and its split.
        settings: of the run.
        after_epoch: called after each epoch, with the epoch and the maximum number of epochs.
        world: the processes that already train together, this one among them; None: this process, or as many as
            `settings.processes`, which it starts.

    Returns:
        How training ended.
    """
    after_epoch = tracking.with_tracking(run, after_epoch)
    if world is None and settings.processes > 1:
        outcome = launcher.launch_workers(run, settings.processes, after_epoch)
    else:
        inputs, identity = load_inputs(run), run.identity(settings)
        outcome = loop.fit(
            inputs.images,
            inputs.split,
            settings,
            run.events,
            run.checkpoints,
            identity,
            after_epoch,
            world or SINGLE,
        )
    finalize(run, settings, outcome)
    return outcome


def finalize(run: Run, settings: Settings, outcome: Outcome) -> None:
    """Export the best weights with a whitening transform folded in, and priors of the latents of the train images."""
    inputs = load_inputs(run)
    model = loop.load_best(run.checkpoints)
    # The statistics of that many latents don't need float32, which takes three times as long as bfloat16.
    arithmetic = trainer.PRECISIONS[outcome.precision]
    latents = space.encode(model, loader.ordered_loader(inputs.images, inputs.split.train), arithmetic)
    train_stats = stats.latent_stats(latents)
    whitened, latents = whitening.fold_whitening(model, latents)
    fitted = priors.fit_priors(latents, settings.seed)
    weights.save(whitened, run.model)
    priors.save(fitted, run.priors)
    run.record(
        training=asdict(outcome),
        latents={"train": asdict(train_stats)},  # recorded here: encoding all train images again takes long
        digests=run.read()["digests"] | {"weights": files.digest(run.model)},
    )


def draw_curves(run: Run, settings: Settings) -> None:
    """Draw the loss curves from the event files."""
    figures.curves(tensorboard.read_scalars(run.events), run.read()["training"]["best_epoch"], run.curves)


def reconstruct(run: Run, settings: Settings) -> None:
    """Draw test images above their reconstructions: the first distinct ones, not a selection."""
    inputs = load_inputs(run)
    first = {inputs.images.digests[position]: position for position in reversed(inputs.split.test)}
    originals = inputs.images.take(sorted(first.values())[:SHOWN])
    gallery.draw_reconstructions(weights.load(run.model), originals, run.reconstructions, "test images")


def generate(run: Run, settings: Settings) -> None:
    """Draw random samples: from N(0, I) before and after whitening, and from the Gaussian prior."""
    model, fitted = weights.load(run.model), priors.load(run.priors)
    unwhitened = loop.load_best(run.checkpoints)
    gallery.draw_samples(unwhitened, fitted, "randn", settings.samples, settings.seed, run.generated_unwhitened)
    gallery.draw_samples(model, fitted, "randn", settings.samples, settings.seed, run.generated)
    gallery.draw_samples(model, fitted, "gaussian", settings.samples, settings.seed, run.generated_gaussian)


def interpolate(run: Run, settings: Settings) -> None:
    """Draw the interpolation between two test images, as a grid and as an animation."""
    inputs = load_inputs(run)
    images = inputs.images
    ends = gallery.choose_pair(images.names, inputs.split.test, settings.interpolation_pair, settings.seed)
    names = [images.names[position] for position in ends]
    for path in (run.interpolation, run.animation):
        draw_interpolation(weights.load(run.model), images.take(ends), names, settings.interpolation_steps, path)
    run.record(interpolation=names)


def score(run: Run, settings: Settings) -> None:
    """Score the reconstructions of the test images, next to PCA and the mean image."""
    inputs = load_inputs(run)
    comparison = reconstruction.score_against_baselines(
        weights.load(run.model),
        loader.ordered_loader(inputs.images, inputs.split.train),
        loader.ordered_loader(inputs.images, inputs.split.test),
        rng.generator(settings.seed, "PCA"),
    )
    run.record(scores=asdict(comparison))
    logger.info(run_report.headline(asdict(comparison)))


def measure_samples(run: Run, settings: Settings) -> None:
    """Measure how far samples of each prior are from test images, and draw samples of the best prior."""
    inputs = load_inputs(run)
    model, fitted = weights.load(run.model), priors.load(run.priors)
    measured = samples.score_samples(model, fitted, inputs.images, inputs.split, settings.seed)
    gallery.draw_nearest(model, fitted, measured.best, inputs.images, inputs.split, settings.seed, run.nearest)
    run.generated_best.unlink(missing_ok=True)
    if measured.best not in ("randn", "gaussian"):  # `generate` has drawn these
        gallery.draw_samples(model, fitted, measured.best, settings.samples, settings.seed, run.generated_best)
    run.record(generation=asdict(measured))
    logger.info(samples.summarize(measured))


def map_latents(run: Run, settings: Settings) -> None:
    """Describe the latents of train and test images, and draw a map of them, for TensorBoard's projector as well."""
    inputs = load_inputs(run)
    test_loader = loader.ordered_loader(inputs.images, inputs.split.test)
    test = space.encode(loop.load_best(run.checkpoints), test_loader)
    whitened = space.encode(weights.load(run.model), test_loader)
    train_stats = stats.LatentStats(**run.read()["latents"]["train"])
    compared = stats.latent_report(
        train_stats, test, whitened, rng.generator(settings.seed, "samples beside the latents")
    )
    run.record(latents=asdict(compared))
    latent_map.draw_latents(run, inputs.images, inputs.split.test, test, compared)


def log_results(run: Run, settings: Settings) -> None:
    """Log what TensorBoard compares runs by: hyperparameters, final scores and the map of the latents."""
    manifest = run.read()
    columns = hyperparameters(settings) | {"source": sources.label(settings.source)}
    scores = {f"score/{name}": manifest["scores"]["model"][name] for name in ("l1", "psnr", "ssim")}
    tensorboard.write_final(run.events, run.id, columns, scores, run.latents, manifest["training"]["best_epoch"])


def write_report(run: Run, settings: Settings) -> None:
    """Write the report of the run, one HTML page."""
    run_report.write_run_report(run)


TRAINING: tuple[Stage, ...] = (read, split, train)
TRIAL: tuple[Stage, ...] = (*TRAINING, draw_curves, score)  # what a sweep compares
STAGES: tuple[Stage, ...] = (
    *TRAINING,
    draw_curves,
    reconstruct,
    generate,
    interpolate,
    score,
    measure_samples,
    map_latents,
    log_results,
    write_report,
)


def call_stage(stage: Stage, run: Run, settings: Settings) -> None:
    """Call a stage as a plain function."""
    stage(run, settings)


def run_stages(
    run: Run,
    settings: Settings,
    stages: Sequence[Stage] = STAGES,
    call: Callable[[Stage, Run, Settings], None] = call_stage,
) -> None:
    """Run stages in order. Keep the image set from being evicted meanwhile, then trim the cache.

    Args:
        run: the run.
        settings: of the run.
        stages: all, or the first ones; `read` comes first.
        call: calls a stage, for example as a task of Prefect's.
    """
    with ExitStack() as stack:
        for stage in stages:
            call(stage, run, settings)
            if stage is read:
                stack.enter_context(image_store.in_use(image_folder(run)))
        image_store.evict(settings.output_dir / "cache", settings.cache_gb * 1e9)
