"""From label maps on disk to the per-case CSV, for volumes and pictures."""

import json
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import SimpleITK
import torch
from medpy.metric import binary
from PIL import Image

from nnunetv2_selfreg import cli
from nnunetv2_selfreg.benchmarks.score import Run, describe_training, write_scores
from nnunetv2_selfreg.errors import SelfRegError

SPACING = (1.5, 1.4, 8.0)  # of x, y and z
PATIENTS = ("patient002", "patient003")
LABELS = {"background": 0, "RV": 1, "MYO": 2, "LV": 3}
PLANS: dict[str, Any] = {
    "dataset_name": "Dataset027_ACDC",
    "plans_name": "nnUNetPlans",
    "configurations": {"2d": {"batch_size": 12, "patch_size": [8, 8]}},
}


def write_volume(path: Path, labels: Any, spacing: tuple[float, ...] = SPACING, origin: float = 0) -> None:
    image = SimpleITK.GetImageFromArray(np.asarray(labels, np.uint8))
    image.SetSpacing(spacing)
    image.SetOrigin((origin, 0.0, 0.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    SimpleITK.WriteImage(image, str(path))


def write_picture(path: Path, labels: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(labels, np.uint8)).save(path)


def write_dataset(folder: Path, labels: dict[str, int], ending: str, **more: Any) -> None:
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "file_ending": ending, "numTraining": 1}
    (folder / "dataset.json").write_text(json.dumps(content | more))


@pytest.fixture
def acdc(tmp_path: Path) -> Path:
    """Two of ACDC's test patients with two volumes each; class 3 is absent in one and only predicted there."""
    rng = np.random.default_rng(0)
    for patient in PATIENTS:
        for frame in (1, 12):
            name = f"{patient}_frame{frame:02d}.nii.gz"
            reference = np.zeros((4, 16, 14), np.uint8)
            reference[1:3, 2:7, 3:9], reference[:, 9:14, 2:12] = 1, 2
            reference[1:4, 4:6, 9:13] = 3
            predicted = np.roll(reference, rng.integers(0, 3, 3), axis=(0, 1, 2))
            if frame == 12 and patient == PATIENTS[1]:
                reference[reference == 3] = 0
            write_volume(tmp_path / "labelsTs" / name, reference)
            write_volume(tmp_path / "predictions" / name, predicted)
    converted = {"name": "acdc", "size": None, "missing": {"train": [], "test": ["patient008"]}, "complete": False}
    write_dataset(tmp_path, LABELS, ".nii.gz", benchmark=converted)
    return tmp_path


def run_of(folder: Path, benchmark: str = "acdc", **more: Any) -> Run:
    return Run(benchmark, folder / "predictions", folder / "labelsTs", folder / "dataset.json", **more)


def scored(folder: Path, benchmark: str = "acdc", **more: Any) -> tuple[pd.DataFrame, dict[str, Any]]:
    options = {name: more.pop(name, False) for name in ("allow_incomplete", "overwrite")}
    sidecar = write_scores(run_of(folder, benchmark, **more), folder / "results" / "run.csv", **options)
    assert json.loads((folder / "results" / "run.json").read_text()) == sidecar
    return pd.read_csv(folder / "results" / "run.csv", dtype={"seed": str, "fold": str}), sidecar


def refusal(folder: Path, benchmark: str = "acdc", **more: Any) -> str:
    with pytest.raises(SelfRegError) as caught:
        scored(folder, benchmark, **more)
    assert "\n" not in str(caught.value)
    assert not (folder / "results").exists()
    return str(caught.value)


@pytest.fixture
def model(tmp_path: Path) -> Callable[..., Path]:
    """Writes a model folder with checkpoints as nnU-Net's, without a network."""

    def write(trainer: str, plans: dict[str, Any] = PLANS, epochs: tuple[int, ...] = (7,) * 5) -> Path:
        folder = tmp_path / "nnUNet_results" / "Dataset027_ACDC" / f"{trainer}__{plans['plans_name']}__2d"
        for fold, count in enumerate(epochs):
            (folder / f"fold_{fold}").mkdir(parents=True)
            content = {"network_weights": {}, "trainer_name": trainer, "init_args": {}, "current_epoch": count}
            torch.save(content, folder / f"fold_{fold}" / "checkpoint_final.pth")
            (folder / f"fold_{fold}" / "debug.json").write_text('{"torch_version": "2.5.1", "num_epochs": "9"}')
        (folder / "plans.json").write_text(json.dumps(plans))
        write_dataset(folder, LABELS, ".nii.gz")
        return folder

    return write


def test_acdc_is_scored_case_by_case(acdc: Path, model: Callable[..., Path]) -> None:
    table, sidecar = scored(acdc, model=model("nnUNetTrainerSelfRegSCR"), seed=3)
    columns = "benchmark protocol rule trainer plans configuration fold seed case cluster class metric value"
    assert list(table.columns) == columns.split()
    assert len(table) == 4 * 3 * 5
    for column, value in {"benchmark": "acdc", "trainer": "nnUNetTrainerSelfRegSCR", "plans": "nnUNetPlans"}.items():
        assert set(table[column]) == {value}
    assert (set(table["configuration"]), set(table["fold"]), set(table["seed"])) == ({"2d"}, {"ensemble"}, {"3"})
    assert set(table["protocol"]) == {"ensemble of folds"}
    assert set(zip(table["case"], table["cluster"], strict=True)) == {
        (f"{patient}_frame{frame}", patient) for patient in PATIENTS for frame in ("01", "12")
    }
    values = table.set_index(["rule", "metric", "case", "class"])["value"]
    for case in set(table["case"]):
        prediction, reference = (
            SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(acdc / folder / f"{case}.nii.gz")))
            for folder in ("predictions", "labelsTs")
        )
        for label, name in enumerate(("RV", "Myo", "LV"), 1):
            masks = prediction == label, reference == label
            if not masks[1].any():
                continue
            for rule in ("published", "nnunet"):
                assert values[rule, "dice", case, name] == pytest.approx(binary.dc(*masks))
            assert values["nnunet", "iou", case, name] == pytest.approx(binary.jc(*masks))
            assert values["published", "hd95", case, name] == binary.hd95(*masks)
            assert values["nnunet", "hd95_mm", case, name] == pytest.approx(binary.hd95(*masks, SPACING[::-1]))
    absent = "patient003_frame12", "LV"
    assert (values[("published", "dice", *absent)], values[("published", "hd95", *absent)]) == (1, 0)
    assert (values[("nnunet", "dice", *absent)], values[("nnunet", "iou", *absent)]) == (0, 0)
    assert np.isnan(values[("nnunet", "hd95_mm", *absent)])

    assert sidecar["selfreg"]["lambda_scr"] == 0.015
    assert "lambda_ifd" not in sidecar["selfreg"]
    assert sidecar["stock"] == "nnUNetTrainer"
    assert sidecar["epochs"] == dict.fromkeys("01234", 7)
    assert sidecar["dataset"] == "Dataset027_ACDC"
    assert sidecar["versions"]["torch"] == "2.5.1"
    assert sidecar["incomplete"] == ["18 of 20 patients missing"]
    assert sidecar["missing"] == {"train": [], "test": ["patient008"], "predictions": []}


def test_files_are_the_same_byte_for_byte(acdc: Path, model: Callable[..., Path]) -> None:
    folder = model("nnUNetTrainer")
    contents = []
    for _ in range(2):
        scored(acdc, model=folder)
        contents.append([path.read_bytes() for path in sorted((acdc / "results").iterdir())])
        shutil.rmtree(acdc / "results")
    assert contents[0] == contents[1]
    assert len(contents[0]) == 2


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_earlier_scores_are_replaced_only_when_asked(acdc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scored(acdc)
    before = contents(acdc / "results")
    (acdc / "predictions" / "patient003_frame12.nii.gz").unlink()
    for there in ("run.csv", "run.json"):
        with pytest.raises(SelfRegError, match=rf"results/{there} exists already; .* replace it with --overwrite"):
            scored(acdc, allow_incomplete=True)
        assert contents(acdc / "results") == before
        before.pop(there)
        (acdc / "results" / there).unlink()
    scored(acdc, allow_incomplete=True)
    options = ["--dataset-json", str(acdc / "dataset.json"), "-o", str(acdc / "results" / "run.csv")]
    command = ["leaderboard", "score", "acdc", str(acdc / "predictions"), str(acdc / "labelsTs"), *options]
    assert cli.main([*command, "--allow-incomplete"]) == 1
    assert cli.main([*command, "--allow-incomplete", "--overwrite"]) == 0
    capsys.readouterr()


def test_scores_that_cannot_be_written_leave_the_earlier_ones(
    acdc: Path, model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored(acdc)
    before = contents(acdc / "results")
    write = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.suffix == ".json":
            raise OSError(28, "No space left on device")
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(SelfRegError, match=r"run\.json cannot be written: No space left on device"):
        scored(acdc, model=model("nnUNetTrainer"), overwrite=True)
    assert contents(acdc / "results") == before


def test_the_models_own_dataset_json_will_do(acdc: Path, model: Callable[..., Path]) -> None:
    folder = model("nnUNetTrainer").resolve()
    run = replace(run_of(acdc, model=folder), dataset_json=folder / "dataset.json")
    assert write_scores(run, acdc / "results" / "run.csv")["trainer"] == "nnUNetTrainer"


def test_model_of_another_data_set_is_refused(acdc: Path, model: Callable[..., Path]) -> None:
    folder = model("nnUNetTrainer")
    write_dataset(folder, {"background": 0, "LV": 1, "Myo": 2, "RV": 3}, ".nii.gz")  # M&Ms', with the same values
    text = refusal(acdc, model=folder)
    assert f"{folder} was trained on Dataset027_ACDC, but {acdc / 'dataset.json'} is the data set" in text
    assert "their labels differ" in text
    write_dataset(folder, LABELS, ".nii.gz")
    for name, code in (("Dataset028_Other", 1), ("Dataset027_ACDC", 0)):
        there = acdc / name
        there.mkdir()
        shutil.copy(acdc / "dataset.json", there)
        run = Run("acdc", acdc / "predictions", acdc / "labelsTs", there / "dataset.json", folder)
        if code:
            with pytest.raises(SelfRegError, match=r"trained on Dataset027_ACDC, .* is the data set Dataset028_Other;"):
                write_scores(run, acdc / "results" / "run.csv")
        else:
            write_scores(run, acdc / "results" / "run.csv")


@pytest.mark.parametrize(
    ("trained", "there", "key"),
    [
        ({"missing": {"train": ["patient001"], "test": []}}, {"missing": {"train": [], "test": []}}, "missing"),
        # where the split is drawn, a picture more is another split
        ({"missing": {"train or test": ["1 of 795"]}}, {"missing": {"train": []}}, "missing"),
        ({"problems": {"extra": ["a picture"]}}, {"problems": {}}, "extra"),
        ({"size": 224}, {"size": None}, "size"),
        ({"missing": {"train": [], "test": ["patient101"]}}, {"missing": {"train": [], "test": []}}, None),
    ],
)
def test_a_model_of_another_conversion_is_refused(
    acdc: Path, model: Callable[..., Path], trained: dict[str, Any], there: dict[str, Any], key: str | None
) -> None:
    folder = model("nnUNetTrainer")
    write_dataset(folder, LABELS, ".nii.gz", benchmark={"name": "acdc", **trained})
    write_dataset(acdc, LABELS, ".nii.gz", benchmark={"name": "acdc", **there})
    if key:
        expected = f"was trained on another conversion of Dataset027_ACDC: {key} is not the same; score it on"
        assert expected in refusal(acdc, model=folder)
    else:
        scored(acdc, model=folder)


def test_missing_prediction_is_refused_or_recorded(acdc: Path) -> None:
    (acdc / "predictions" / "patient003_frame12.nii.gz").unlink()
    text = refusal(acdc)
    assert "lacks 1 of 4 predictions: patient003_frame12;" in text
    assert "--allow-incomplete" in text
    table, sidecar = scored(acdc, allow_incomplete=True)
    assert len(set(table["case"])) == 3
    assert sidecar["missing"]["predictions"] == ["patient003_frame12"]


def _extra(folder: Path) -> None:
    shutil.copy(folder / "labelsTs" / "patient002_frame01.nii.gz", folder / "predictions" / "patient099_frame01.nii.gz")


def _replaced(labels: Any, **more: Any) -> Callable[[Path], None]:
    return lambda folder: write_volume(folder / "predictions" / "patient002_frame01.nii.gz", labels, **more)


def _misnamed(folder: Path) -> None:
    for part in ("predictions", "labelsTs"):
        (folder / part / "patient002_frame01.nii.gz").rename(folder / part / "pat2.nii.gz")


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (_extra, "predictions without reference: patient099_frame01"),
        (_replaced(np.zeros((4, 16, 15))), "has shape (4, 16, 15), its reference (4, 16, 14)"),
        (_replaced(np.zeros((4, 16, 14)), spacing=(1.5, 1.5, 8.0)), "has spacing"),
        (_replaced(np.zeros((4, 16, 14)), origin=2.0), "has origin"),
        (_replaced(np.full((4, 16, 14), 7)), "holds the value 7, which is no label of acdc"),
        (lambda folder: (folder / "predictions" / "patient002_frame01.nii.gz").write_bytes(b"no"), "cannot be read"),
        (_misnamed, "case pat2 is not named as ACDC names its cases"),
        (lambda folder: shutil.rmtree(folder / "predictions"), "predictions is not a folder"),
        (lambda folder: [path.unlink() for path in (folder / "labelsTs").iterdir()], "holds no .nii.gz file"),
        (lambda folder: write_dataset(folder, {"background": 0, "LV": 1}, ".nii.gz"), "has labels [0, 1]"),
        (
            lambda folder: write_dataset(folder, {"background": 0, "LV": 1, "Myo": 2, "RV": 3}, ".nii.gz"),
            "has the labels LV, Myo, RV in this order, but acdc has RV, Myo, LV; convert the data set",
        ),
        (lambda folder: write_dataset(folder, LABELS, ".xyz"), "file_ending '.xyz'"),
        (lambda folder: write_dataset(folder, LABELS, ".nii.gz", benchmark={"name": "synapse"}), "data set of synapse"),
        *(
            (
                lambda folder, said=said: write_dataset(folder, LABELS, ".nii.gz", benchmark=said),
                "the key 'benchmark' does not hold what nnUNetv2_selfreg convert writes there",
            )
            for said in ("ACDC", None, {"missing": None}, {"missing": []}, {"missing": {"test": None}}, {"problems": 5})
        ),
        (lambda folder: (folder / "dataset.json").write_text("{}"), "is not a dataset.json of nnU-Net"),
    ],
)
def test_what_does_not_fit_is_named(acdc: Path, damage: Callable[[Path], Any], expected: str) -> None:
    damage(acdc)
    assert expected in refusal(acdc)


@pytest.mark.parametrize("folder", ["predictions", "labelsTs"])
def test_a_file_that_was_cut_off_is_no_score(acdc: Path, folder: str) -> None:
    path = acdc / folder / "patient002_frame01.nii.gz"
    path.write_bytes(path.read_bytes()[:-20])
    assert refusal(acdc).startswith(f"{path} cannot be read: ")


def test_files_of_the_system_are_no_predictions(acdc: Path) -> None:
    (acdc / "predictions" / "._patient002_frame01.nii.gz").write_bytes(b"")
    (acdc / "predictions" / "summary.json").write_text("{}")
    assert scored(acdc)[1]["cases"] == 4


def test_predictions_of_another_tool_are_named_after_the_file(acdc: Path) -> None:
    table, sidecar = scored(acdc)
    assert set(table["trainer"]) == {"run"}
    assert sidecar["versions"]["torch"] == torch.__version__


def test_hd95_without_medpy_ends_with_one_line(acdc: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "medpy.metric.binary", None)
    assert refusal(acdc) == 'HD95 needs medpy: pip install "/path/to/nnunetv2-selfreg[leaderboard]"'


@pytest.fixture
def glas(tmp_path: Path) -> Path:
    """GlaS's 80 test images, small; prediction and reference differ by a row."""
    for number in range(80):
        name = f"testA_{number + 1}" if number < 60 else f"testB_{number - 59}"
        reference = np.zeros((20, 30))
        reference[5 : 10 + number % 5, 4:20] = 1
        write_picture(tmp_path / "labelsTs" / f"{name}.png", reference)
        write_picture(tmp_path / "predictions" / f"{name}.png", np.roll(reference, 1, axis=0))
    write_dataset(tmp_path, {"background": 0, "gland": 1}, ".png")
    return tmp_path


def test_pictures_are_scored_from_the_command_line(glas: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [str(glas / part) for part in ("predictions", "labelsTs")]
    output = glas / "results" / "glas.csv"
    options = ["--dataset-json", str(glas / "dataset.json"), "-o", str(output), "--fold", "2"]
    assert cli.main(["leaderboard", "score", "glas", *places, *options]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [
        f"wrote {output} and glas.json: 80 cases",
        "no --model was given: the table shows these scores, but no difference to another training",
    ]
    table = pd.read_csv(output)
    assert set(table["protocol"]) == {"each fold alone, native size"}
    dice = table[(table["rule"] == "published") & (table["metric"] == "dice")].set_index("case")["value"]
    assert len(dice) == 80
    # 5 rows of which 4 are common; 9 and 8
    assert (dice["testA_1"], dice["testA_5"]) == (8 / 10, pytest.approx(16 / 18))


def test_test_a_is_a_part_of_the_images(glas: Path) -> None:
    (glas / "labelsTs" / "testA_60.png").unlink()
    (glas / "predictions" / "testA_60.png").unlink()
    converted = {"name": "glas", "missing": {"train": [], "test": ["testA_60", "testB_20"]}, "complete": False}
    write_dataset(glas, {"background": 0, "gland": 1}, ".png", benchmark=converted)
    table, sidecar = scored(glas, "glas_test_a", fold="0")
    assert (sidecar["cases"], sidecar["incomplete"]) == (59, ["1 of 60 images missing"])
    assert sidecar["missing"]["test"] == ["testA_60"]
    assert all(case.startswith("testA_") for case in table["case"])
    accuracy = table[table["metric"] == "pixel_accuracy"].set_index("case")["value"]
    assert accuracy["testA_1"] == pytest.approx(1 - 2 * 16 / 600)


def test_image_size_is_part_of_the_protocol(glas: Path) -> None:
    assert "is of native size; glas224 is scored at 224 x 224" in refusal(glas, "glas224", fold="0")
    for part in ("predictions", "labelsTs"):
        write_picture(glas / part / "testA_1.png", np.ones((224, 224)))
    assert "case testA_1 is of 224 x 224; glas is scored at native size" in refusal(glas, "glas", fold="0")
    assert "mixes images of 224 x 224 with others" in refusal(glas, "glas_test_a", fold="0")


def test_mask_of_255_is_no_label_map(glas: Path) -> None:
    write_picture(glas / "predictions" / "testB_1.png", np.full((20, 30), 255))
    assert "testB_1.png holds the value 255, which is no label of glas" in refusal(glas, fold="0", benchmark="glas")


def test_too_many_cases_are_not_the_test_set(glas: Path) -> None:
    for part in ("predictions", "labelsTs"):
        write_picture(glas / part / "train_1.png", np.ones((20, 30)))
    assert "holds 81 cases, but glas has 80" in refusal(glas, fold="0", benchmark="glas")


def test_training_cases_are_not_the_test_set(glas: Path) -> None:
    """Also where the benchmark's number of cases is not known, as for EBHI-Seg."""
    (glas / "labelsTr").mkdir()
    name = min(path.name for path in (glas / "labelsTs").iterdir())
    (glas / "labelsTr" / name).write_bytes((glas / "labelsTs" / name).read_bytes())
    case = name.removesuffix(".png")
    assert f"holds training cases: {case}; give the test set, labelsTs" in refusal(glas, "glas", fold="0")


def test_patches_are_clustered_by_image(tmp_path: Path) -> None:
    for name in ("case_1_y00000_x00512", "case_1_y00512_x00000", "case_2_y00000_x00000"):
        for part in ("predictions", "labelsTs"):
            write_picture(tmp_path / part / f"{name}.png", np.eye(8))
    missing = {"train": ["a", "b"], "test": [], "train or test": ["3 of 660 pictures"]}
    write_dataset(tmp_path, {"background": 0, "lesion": 1}, ".png", benchmark={"missing": missing})
    table, sidecar = scored(tmp_path, "digestpath", fold="0")
    assert set(table["cluster"]) == {"case_1", "case_2"}
    assert set(table[table["metric"] == "pixel_accuracy"]["value"]) == {1.0}
    assert sidecar["incomplete"] == [
        "missing in training: a, b",
        "3 of 660 pictures missing in training or test, so another split was drawn",
    ]


def test_pictures_that_were_not_converted_are_not_counted_as_patches(tmp_path: Path) -> None:
    for part in ("predictions", "labelsTs"):
        write_picture(tmp_path / part / "case_1_y00000_x00512.png", np.eye(8))
    missing = {"train": [], "test": ["case_2", "case_3"], "train or test": []}
    write_dataset(tmp_path, {"background": 0, "lesion": 1}, ".png", benchmark={"missing": missing})
    assert scored(tmp_path, "digestpath", fold="0")[1]["incomplete"] == ["2 of 3 images missing"]


def test_patches_are_no_whole_images(tmp_path: Path) -> None:
    for part in ("predictions", "labelsTs"):
        write_picture(tmp_path / part / "case_1_y00000_x00512.png", np.eye(8))
    write_dataset(tmp_path, {"background": 0, "lesion": 1}, ".png", benchmark={"missing": {}})
    assert "case case_1_y00000_x00512 is not named as DigestPath, whole images names" in refusal(
        tmp_path, "digestpath_wsi", fold="0"
    )


def test_a_fold_must_be_given_where_folds_are_scored_alone(glas: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["leaderboard", "score", "glas", "a", "b", "--dataset-json", "c", "-o"]
    assert cli.main([*command, "d.csv"]) == 1
    assert "glas scores each fold alone; say which with --fold" in capsys.readouterr().err
    assert cli.main([*command, "table.csv"]) == 1
    assert "name a .csv file other than table.csv" in capsys.readouterr().err


def test_model_tells_how_it_was_trained(model: Callable[..., Path]) -> None:
    stock = describe_training(model("nnUNetTrainer"), "ensemble")
    assert (stock["selfreg"], stock["stock"]) == (None, None)
    settings = {"batch_size": 12, "patch_size": [8, 8], "selfreg": {"lambda_scr": 0.1}}
    plans = {**PLANS, "plans_name": "Strong", "configurations": {"2d": settings}}
    strong = describe_training(model("nnUNetTrainerSelfReg", plans), "1")
    assert (strong["trainer"], strong["plans"], strong["configuration"]) == ("nnUNetTrainerSelfReg", "Strong", "2d")
    assert (strong["selfreg"]["lambda_scr"], strong["selfreg"]["lambda_ifd"]) == (0.1, 0.015)
    assert strong["epochs"] == {"1": 7}
    assert strong["network"] == stock["network"]
    other = {**PLANS, "plans_name": "Big", "configurations": {"2d": {"batch_size": 24, "patch_size": [8, 8]}}}
    assert describe_training(model("nnUNetTrainer", other), "0")["network"] != stock["network"]


def test_epochs_without_final_checkpoint_are_not_known(model: Callable[..., Path]) -> None:
    folder = model("nnUNetTrainer", epochs=(7, 8))
    (folder / "fold_0" / "checkpoint_final.pth").unlink()
    assert describe_training(folder, "ensemble", [0, 1])["epochs"] == {"0": None, "1": 8}


def test_a_fold_that_is_not_finished_did_not_predict_unless_it_is_named(acdc: Path, model: Callable[..., Path]) -> None:
    folder = model("nnUNetTrainer")
    (folder / "fold_4" / "checkpoint_final.pth").unlink()
    sidecar = scored(acdc, model=folder)[1]
    assert list(sidecar["epochs"]) == ["0", "1", "2", "3"]
    assert sidecar["incomplete"][1:] == ["4 of 5 folds in the ensemble"]
    sidecar = scored(acdc, model=folder, folds=range(5), overwrite=True)[1]  # by nnU-Net's best checkpoint, say
    assert sidecar["incomplete"][1:] == ["fold 4 has no final checkpoint"]
    for fold in range(4):
        (folder / f"fold_{fold}" / "checkpoint_final.pth").rename(folder / f"fold_{fold}" / "checkpoint_best.pth")
    (folder / "fold_all").mkdir()
    (folder / "fold_all" / "checkpoint_final.pth").touch()
    assert len(scored(acdc, model=folder, overwrite=True)[1]["epochs"]) == 5  # none is finished: those that were begun


def test_folds_without_a_model_are_refused(acdc: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = [str(acdc / name) for name in ("predictions", "labelsTs")]
    more = ["--dataset-json", str(acdc / "dataset.json"), "--folds", "0", "1", "-o", str(acdc / "x.csv")]
    assert cli.main(["leaderboard", "score", "acdc", *places, *more]) == 1
    assert "--folds names the folds of a model; give the model with --model" in capsys.readouterr().err


def test_what_the_command_is_given_is_written_down(acdc: Path, model: Callable[..., Path]) -> None:
    folder = model("nnUNetTrainer", epochs=(7, 8, 9))
    places = [str(acdc / name) for name in ("predictions", "labelsTs")]
    more = ["--dataset-json", str(acdc / "dataset.json"), "--model", str(folder), "--folds", "0", "2", "--seed", "3"]
    output = acdc / "from_the_command.csv"
    assert cli.main(["leaderboard", "score", "acdc", *places, *more, "--allow-incomplete", "-o", str(output)]) == 0
    sidecar = json.loads(output.with_suffix(".json").read_text())
    assert sidecar["trainer"] == "nnUNetTrainer"
    assert sidecar["epochs"] == {"0": 7, "2": 9}
    assert sidecar["seed"] == 3


def test_ensemble_is_of_the_folds_that_are_named(acdc: Path, model: Callable[..., Path]) -> None:
    folder = model("nnUNetTrainer", epochs=(7, 8, 9))
    sidecar = scored(acdc, model=folder, folds=[0, 2])[1]
    assert sidecar["epochs"] == {"0": 7, "2": 9}
    assert "2 of 5 folds in the ensemble" in sidecar["incomplete"]


def test_ensemble_of_fewer_folds_is_marked(acdc: Path, model: Callable[..., Path]) -> None:
    incomplete = scored(acdc, model=model("nnUNetTrainer", epochs=(7, 7)))[1]["incomplete"]
    assert incomplete == ["18 of 20 patients missing", "2 of 5 folds in the ensemble"]


def test_unusable_model_is_named(acdc: Path, model: Callable[..., Path]) -> None:
    assert (
        "is not a model folder, it has no plans.json; give nnUNet_results/DATASET/TRAINER__PLANS__CONFIGURATION"
        in refusal(acdc, model=acdc)
    )
    folder = model("nnUNetTrainer", epochs=(1,))
    assert "has no fold_4; folds there: 0" in refusal(acdc, model=folder, fold="4")
    several = refusal(acdc, model=folder, folds=[0, 1])
    assert several.startswith("--folds 0 1: ")
    assert several.endswith("has no fold_1; folds there: 0")
    (folder / "fold_0").rename(folder / "fold_all")
    assert "has no numbered fold; folds there: all" in refusal(acdc, model=folder)
