import json
import re
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
from catae.inference import export
from catae.inference.export import Part
from catae.model import weights
from catae.run import Run
from catae.settings import Settings
from catae.system import files

HAS_ONNX = all(find_spec(name) for name in export.ONNX)
needs_onnx = pytest.mark.skipif(not HAS_ONNX, reason="ONNX is not here: pip install 'catae[onnx]'")
FACTS = {
    "image_size": 32, "latent_dim": 8, "width": 4, "activation": "crelu",
    "pixels": "RGB, (x / 255 - 0.5) / 0.5, in [-1, 1]",
}  # fmt: skip
NAMES = ["autoencoder", "decoder", "encoder"]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with scores."""
    from catae.pipeline import stages

    resolved = Settings(
        source="drawn:60", image_size=32, latent_dim=8, width=4, max_epochs=1, output_dir=tmp_path_factory.mktemp("a")
    )
    trained = jobs.train(resolved)
    stages.score(trained, resolved)
    return trained


@pytest.fixture(scope="module")
def exported(source: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its model in all formats that can be made here."""
    out = tmp_path_factory.mktemp("exported")
    export.export(source, [name for name in export.FORMATS if name != "onnx" or HAS_ONNX], out)
    return out


def front(card: Path) -> dict[str, object]:
    """What the card says to machines."""
    _, matter, _ = card.read_text().split("---\n", 2)
    facts = yaml.safe_load(matter)
    assert isinstance(facts, dict)
    return facts


def test_the_command_gives_safetensors_with_shape_and_normalisation_and_a_card(
    source: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(source.path.parent.parent))
    assert main(["export", "--out", "cats"]) == 0
    assert capsys.readouterr().out == "cats\n"
    assert sorted(path.name for path in Path("cats").iterdir()) == ["README.md", "model.safetensors"]
    with safe_open("cats/model.safetensors", "pt") as file:
        assert json.loads(file.metadata()["catae"]) == FACTS
    assert Path("cats/model.safetensors").read_bytes() == source.model.read_bytes()
    assert catae.load("cats").latent_dim == 8


@needs_onnx
def test_onnx_gives_what_pytorch_gives_for_any_batch_and_says_what_it_is(source: Run, exported: Path) -> None:
    import onnx
    import onnxruntime

    assert sorted(path.stem for path in exported.glob("*.onnx")) == NAMES
    model = weights.load(source.model)
    shapes = {
        "encoder": ("pictures", [3, 32, 32], "codes", [8, 1, 1], model.encoder),
        "decoder": ("codes", [8, 1, 1], "pictures", [3, 32, 32], model.decoder),
        "autoencoder": ("pictures", [3, 32, 32], "restored", [3, 32, 32], model),
    }
    for name, (given, shape, made, made_shape, module) in shapes.items():
        session = onnxruntime.InferenceSession(exported / f"{name}.onnx")
        ((put_in, taken_out),) = [(session.get_inputs()[0], session.get_outputs()[0])]
        assert (put_in.name, put_in.shape[1:], put_in.type) == (given, shape, "tensor(float)")
        assert (taken_out.name, taken_out.shape[1:]) == (made, made_shape)
        assert put_in.shape[0] == taken_out.shape[0] == "batch"
        assert json.loads(session.get_modelmeta().custom_metadata_map["catae"]) == FACTS
        for count in (1, 7):
            batch = torch.rand(count, *shape)
            (numbers,) = session.run(None, {given: batch.numpy()})
            with torch.no_grad():
                assert np.abs(numbers - module(batch).numpy()).max() < 1e-4
        onnx.checker.check_model(onnx.load(exported / f"{name}.onnx"), full_check=True)


def test_an_exported_program_gives_what_the_model_gives_for_any_batch_and_says_what_it_is(
    source: Run, exported: Path
) -> None:
    assert sorted(path.stem for path in exported.glob("*.pt2")) == NAMES
    facts = {"catae": ""}
    made = torch.export.load(exported / "autoencoder.pt2", extra_files=facts).module()
    assert json.loads(facts["catae"]) == FACTS
    for count in (1, 7):
        batch = torch.rand(count, 3, 32, 32)
        with torch.no_grad():
            assert (made(batch) - weights.load(source.model)(batch)).abs().max() < 1e-4


@needs_onnx
def test_the_same_model_gives_the_same_bytes(source: Run, exported: Path) -> None:
    model = weights.load(source.model)
    encoder, _, _ = export.parts(model, [export.noise(model.image_size)])
    assert export.onnx_bytes(encoder, weights.metadata(model)) == (exported / "encoder.onnx").read_bytes()
    assert export.torch_bytes(encoder, weights.metadata(model)) == (exported / "encoder.pt2").read_bytes()


def test_no_file_says_where_it_was_made(source: Run, exported: Path) -> None:
    places = [str(place).encode() for place in (exported, source.path.parent.parent, Path(catae.__file__).parent)]
    assert len(list(exported.iterdir())) == (8 if HAS_ONNX else 5)
    for path in exported.iterdir():
        held = [path.read_bytes()]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                held += [archive.read(member) for member in archive.namelist()]
        assert not [place for place in places for data in held if place in data], path.name


def test_the_card_has_scores_with_references_for_people_and_machines(source: Run, tmp_path: Path) -> None:
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
        assert f"| {scores[name]['l1']:.4f} |" in card
    assert f"How well {scores['pictures']} test pictures come back" in card
    assert "No test picture has a copy among the train pictures" in card
    assert "The test pictures also decided when training stopped" in card
    assert 'catae.load("model.safetensors")' in card
    assert "onnxruntime" not in card
    assert not re.search(r"!\[|<img|data:|\n\n\n", card)


def test_a_card_tells_of_copies_on_both_sides_and_of_scores_that_are_not_there(source: Run, tmp_path: Path) -> None:
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
    assert "**Train holds copies of 3 test pictures of" in card
    assert "No test picture has a copy" not in card
    assert "how good this model is, is not known" in card
    assert "secret" not in card
    assert front(tmp_path / "out" / "README.md")["model-index"][0]["results"] == []  # type: ignore[index]
    assert "\nname: x.zip" not in card


def test_what_differs_from_the_model_is_no_export() -> None:
    module = torch.nn.Identity()
    part = Part("encoder", module, "pictures", "codes", [torch.zeros(5, 3, 8, 8)])
    export._compare("encoder.onnx", lambda batch: batch + 0.5e-4, part)
    for made in (lambda x: x + 2e-4, lambda x: x + torch.nan, lambda x: x + (len(x) > 1)):
        with pytest.raises(ArithmeticError, match=r"encoder\.onnx is not the model"):
            export._compare("encoder.onnx", made, part)


def test_a_library_that_is_missing_and_a_file_in_the_place_of_the_folder_are_told(
    source: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CATAE_OUTPUT_DIR", str(source.path.parent.parent))
    monkeypatch.setattr(export, "ONNX", ("onnx_of_nobody",))
    assert main(["export", "--format", "onnx", "--out", str(tmp_path / "out")]) == 2
    assert "ONNX needs onnx_of_nobody: pip install 'catae[onnx]'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["export", "--out", str(tmp_path / "file")]) == 2
    assert "is a file; name a folder with --out" in capsys.readouterr().err
