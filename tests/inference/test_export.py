import json
import re
import shutil
import zipfile
from importlib.util import find_spec
from pathlib import Path

import jobs
import numpy as np
import pytest
import torch
import yaml
from safetensors import safe_open

import catae
from catae.__main__ import main
from catae.errors import UserError
from catae.inference import export
from catae.inference.export import Part
from catae.model import weights
from catae.report.run_summary import summarize_run
from catae.run import Run
from catae.settings import Settings
from catae.system import files

HAS_ONNX = all(find_spec(name) for name in export.ONNX)
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="ONNX is missing: pip install 'catae[onnx]'")
NAMES = ["autoencoder", "decoder", "encoder"]


@pytest.fixture(scope="module", params=["spec", "tuned"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of each recipe, with scores."""
    from catae.pipeline import stages

    resolved = Settings(
        recipe=request.param, source="drawn:60", image_size=32, latent_dim=8, width=4, max_epochs=1,
        output_dir=tmp_path_factory.mktemp("a"),
    )  # fmt: skip
    trained = jobs.train(resolved)
    stages.score(trained, resolved)
    return trained


@pytest.fixture(scope="module")
def exported(source: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run's model in all formats whose libraries are installed."""
    out = tmp_path_factory.mktemp("exported")
    export.export(source, [name for name in export.FORMATS if name != "onnx" or HAS_ONNX], out)
    return out


def facts_of(source: Run) -> dict[str, object]:
    """Return what the metadata of an export states."""
    recipe = files.read_json(source.settings)["recipe"]["value"]
    activation = {"spec": "relu", "tuned": "crelu"}[recipe]
    pixels = "RGB, (x / 255 - 0.5) / 0.5, in [-1, 1]"
    return {"image_size": 32, "latent_dim": 8, "width": 4, "activation": activation, "whitened": True, "pixels": pixels}


def front(card: Path) -> dict[str, object]:
    """Return the YAML front matter of a model card."""
    _, matter, _ = card.read_text().split("---\n", 2)
    facts = yaml.safe_load(matter)
    assert isinstance(facts, dict)
    return facts


def test_the_command_writes_safetensors_with_its_facts_and_a_card(
    source: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(source.path.parent.parent))
    assert main(["export", "--out", "cats"]) == 0
    assert capsys.readouterr().out == "cats\n"
    assert sorted(path.name for path in Path("cats").iterdir()) == ["README.md", "model.safetensors"]
    with safe_open("cats/model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["catae"]) == facts_of(source)
    assert Path("cats/model.safetensors").read_bytes() == source.model.read_bytes()
    assert catae.load("cats").latent_dim == 8


@needs_onnx
def test_onnx_equals_pytorch_for_any_batch_and_has_its_facts(source: Run, exported: Path) -> None:
    import onnx
    import onnxruntime

    assert sorted(path.stem for path in exported.glob("*.onnx")) == NAMES
    model = weights.load(source.model)
    shapes = {
        "encoder": ("images", [3, 32, 32], "latents", [8, 1, 1], model.encoder),
        "decoder": ("latents", [8, 1, 1], "images", [3, 32, 32], model.decoder),
        "autoencoder": ("images", [3, 32, 32], "reconstructions", [3, 32, 32], model),
    }
    for name, (input_name, shape, output_name, output_shape, module) in shapes.items():
        session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
        (given,), (output,) = session.get_inputs(), session.get_outputs()
        assert (given.name, given.shape[1:], given.type) == (input_name, shape, "tensor(float)")
        assert (output.name, output.shape[1:]) == (output_name, output_shape)
        assert given.shape[0] == output.shape[0] == "batch"
        assert json.loads(session.get_modelmeta().custom_metadata_map["catae"]) == facts_of(source)
        for count in (1, 7):
            batch = torch.rand(count, *shape)
            (numbers,) = session.run(None, {input_name: batch.numpy()})
            with torch.no_grad():
                assert np.abs(numbers - module(batch).numpy()).max() < 1e-4
        onnx.checker.check_model(onnx.load(exported / f"{name}.onnx"), full_check=True)


def test_an_exported_program_equals_the_model_for_any_batch_and_has_its_facts(source: Run, exported: Path) -> None:
    assert sorted(path.stem for path in exported.glob("*.pt2")) == NAMES
    facts = {"catae": ""}
    exported_model = torch.export.load(exported / "autoencoder.pt2", extra_files=facts).module()
    assert json.loads(facts["catae"]) == facts_of(source)
    for count in (1, 7):
        batch = torch.rand(count, 3, 32, 32)
        with torch.no_grad():
            assert (exported_model(batch) - weights.load(source.model)(batch)).abs().max() < 1e-4


@needs_onnx
def test_exports_of_the_same_model_are_identical(source: Run, exported: Path) -> None:
    model = weights.load(source.model)
    encoder, _, _ = export.parts(model, [export.noise(model.image_size)])
    assert export.onnx_bytes(encoder, weights.metadata(model)) == (exported / "encoder.onnx").read_bytes()
    assert export.torch_bytes(encoder, weights.metadata(model)) == (exported / "encoder.pt2").read_bytes()


def test_no_exported_file_holds_a_path_of_this_machine(source: Run, exported: Path) -> None:
    places = [str(place).encode() for place in (exported, source.path.parent.parent, Path(catae.__file__).parent)]
    assert len(list(exported.iterdir())) == (8 if HAS_ONNX else 5)
    for path in exported.iterdir():
        contents = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                contents += [archive.read(member) for member in archive.namelist()]
        assert not [place for place in places for data in contents if place in data], path.name


def test_the_card_has_scores_next_to_baselines(source: Run, tmp_path: Path) -> None:
    export.export(source, ["safetensors"], tmp_path)
    card, facts = (tmp_path / "README.md").read_text(), front(tmp_path / "README.md")
    scores = source.read()["scores"]
    ((result,),) = [entry["results"] for entry in facts["model-index"]]  # type: ignore[attr-defined]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {
        "mae": pytest.approx(scores["model"]["l1"], rel=1e-3),
        "psnr": pytest.approx(scores["model"]["psnr"], rel=1e-3),
        "ssim": pytest.approx(scores["model"]["ssim"], rel=1e-3),
    }
    assert result["dataset"]["name"] == "drawn:60"
    assert "license" not in facts
    for name in ("model", "pca", "mean_picture"):
        assert re.search(rf"\| (\*\*)?{scores[name]['l1']:.4f}(\*\*)? ", card)  # the best is bold
    assert f"On {scores['pictures']} test images, next to" in card
    assert "No test image has a duplicate among the train images" in card
    assert "The test images also decided when training stopped" in card
    assert 'catae.load("model.safetensors")' in card
    assert "onnxruntime" not in card
    assert not re.search(r"!\[|<img|data:|\n\n\n", card)


def test_a_card_warns_of_leaks_and_of_missing_scores(source: Run, tmp_path: Path) -> None:
    manifest = source.read()
    files.write_json(tmp_path / "run.json", {
        **{name: value for name, value in manifest.items() if name != "scores"},
        "split": {**manifest["split"], "test_copies_in_train": 3},
        "data": {**manifest["data"], "source": "/secret/place/`odd`\n---\nname: x.zip", "store": "gone"},
    })  # fmt: skip
    for name in ("model.safetensors", "settings.json"):
        (tmp_path / name).write_bytes((source.path / name).read_bytes())
    export.export(Run(tmp_path), ["safetensors"], tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "**The train set holds duplicates of 3 test images" in card
    assert "No test image has a duplicate" not in card
    assert "The run was not evaluated, so the quality of this model is unknown." in card
    assert "secret" not in card
    assert front(tmp_path / "out" / "README.md")["model-index"][0]["results"] == []  # type: ignore[index]
    assert "\nname: x.zip" not in card


def test_an_export_that_differs_from_the_model_is_refused() -> None:
    module = torch.nn.Identity()
    part = Part("encoder", module, "images", "latents", [torch.zeros(5, 3, 8, 8)])
    export._compare_with_model("encoder.onnx", lambda batch: batch + 0.5e-4, part)
    for exported_function in (lambda x: x + 2e-4, lambda x: x + torch.nan, lambda x: x + (len(x) > 1)):
        with pytest.raises(ArithmeticError, match=r"encoder\.onnx differs from the model by"):
            export._compare_with_model("encoder.onnx", exported_function, part)


def test_a_missing_library_and_a_file_at_out_exit_with_2(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(source.path.parent.parent))
    monkeypatch.setattr(export, "ONNX", ("onnx_of_nobody",))
    assert main(["export", "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "exporting to ONNX needs onnx_of_nobody: pip install 'catae[onnx]'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["export", "--out", str(tmp_path / "file")]) == 2
    assert "is a file; name a folder with --out" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_is_one_line(source: Run, tmp_path: Path) -> None:
    older = Run(tmp_path / "older")
    shutil.copytree(source.path, older.path)
    training = older.read()["training"]
    older.record(training={"judged_on" if name == "monitor" else name: value for name, value in training.items()})
    with pytest.raises(UserError, match="cannot export run older: an earlier version of catae wrote it; train again"):
        export.export(older, ["safetensors"], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(UserError, match="older is damaged, or another version of catae wrote it"):
        summarize_run(older)
