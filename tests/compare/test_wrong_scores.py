"""Scores that do not belong together, or are none: refused by name, and nothing is written."""

import json
import shutil

import pytest
from scored import FIRST, SECOND, write_model, write_summary

from nnunetv2_selfreg.cli import main
from nnunetv2_selfreg.compare.summaries import TOGETHER, Training

SUMMARY = "fold_0/validation/summary.json"


@pytest.fixture
def models(tmp_path):
    """Two models of two folds each."""
    results = tmp_path / "Dataset001_Test"
    names = "nnUNetTrainer__nnUNetPlans__2d", "nnUNetTrainerSelfReg__nnUNetPlans__2d"
    return [write_model(results / name, cases) for name, cases in zip(names, (FIRST, SECOND), strict=True)]


@pytest.fixture
def refused(tmp_path, capsys):
    """Compares, and gives the one line that this ends with."""

    def of(*arguments):
        assert main(["compare", *map(str, arguments), "-o", str(tmp_path / "out")]) == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert not (tmp_path / "out").exists()
        return error

    return of


def edit(path, change):
    """Writes a JSON file anew after a change to what it holds."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def edit_first_score(path, **changes):
    edit(path, lambda content: content["metric_per_case"][0]["metrics"]["1"].update(changes))


def test_a_fold_that_was_scored_on_its_training_cases_is_no_fold_like_others(models, refused, tmp_path):
    for model, folds in zip(models, (FIRST, SECOND), strict=True):
        write_summary(model / "fold_all" / "validation" / "summary.json", folds[0] | folds[1])
        (model / "fold_all" / "checkpoint_final.pth").touch()
    assert f"fold all of {models[0]} was scored on the cases that it was trained on" in refused(*models)
    alone = [shutil.copytree(model, tmp_path / "alone" / model.name) for model in models]
    for model in alone:
        shutil.rmtree(model / "fold_0"), shutil.rmtree(model / "fold_1")
    said = "have no case of a fold in common; predict a test set with each and compare the folders"
    assert said in refused(*alone, "--common-only")
    assert main(["compare", *map(str, models), "--common-only", "-o", str(tmp_path / "out")]) == 0
    assert "Over the 2 folds" in (tmp_path / "out" / "comparison.md").read_text()


def test_a_copy_of_a_fold_is_no_fold(models, tmp_path):
    for model in models:
        shutil.copytree(model / "fold_0", model / "fold_0_old")
    assert main(["compare", *map(str, models), "-o", str(tmp_path / "out")]) == 0
    assert "Over the 2 folds" in (tmp_path / "out" / "comparison.md").read_text()


@pytest.mark.parametrize("option", [[], ["--common-only"]])
def test_other_splits_are_refused_also_where_they_have_cases_in_common(option, models, refused):
    moved = {0: dict(SECOND[0]), 1: dict(SECOND[1])}
    moved[1]["patient2_ED"] = moved[0].pop("patient2_ED")
    for fold, cases in moved.items():
        write_summary(models[1] / f"fold_{fold}" / "validation" / "summary.json", cases)
    error = refused(*models, *option)
    assert "other splits: patient2_ED is in fold 0 of the first, in fold 1 of the second" in error


@pytest.mark.parametrize("option", [[], ["--other-plans"]])
def test_another_data_set_is_refused_also_with_other_plans(option, models, refused):
    edit(models[1] / "plans.json", lambda plans: plans.update(dataset_name="Dataset002_Other"))
    assert "are of other data: dataset_name is 'D' and 'Dataset002_Other'" in refused(*models, *option)


def test_scores_by_fold_and_scores_of_all_cases_are_not_mixed(models, refused, tmp_path):
    write_summary(tmp_path / "predictions" / "summary.json", SECOND[0] | SECOND[1])
    assert "one has scores by fold, the other of all cases together" in refused(models[0], tmp_path / "predictions")


def test_a_case_that_is_scored_twice_is_named(models, refused):
    edit(models[1] / SUMMARY, lambda content: content["metric_per_case"].append(content["metric_per_case"][0]))
    assert f"{models[1] / SUMMARY} has the case patient1_ED twice" in refused(*models)


@pytest.mark.parametrize("change", [{"reference_file": None}, {"prediction_file": 3}, {"metrics": {}}])
def test_a_case_without_files_or_scores_is_refused(change, models, refused):
    edit(models[1] / SUMMARY, lambda content: content["metric_per_case"][1].update(change))
    assert f"{models[1] / SUMMARY} is no summary.json of nnU-Net v2's evaluation" in refused(*models)


@pytest.mark.parametrize("value", [2, -0.1, float("inf")])
def test_what_is_no_dice_is_refused(value, models, refused):
    edit_first_score(models[1] / SUMMARY, Dice=value)
    assert f"{models[1] / SUMMARY} is no summary.json of nnU-Net v2's evaluation" in refused(*models)


@pytest.mark.parametrize("change", [{"labels": ["RV", "LV"]}, {"file_ending": 3}, {"file_ending": None}])
def test_a_description_that_is_none_of_nnunet_is_named(change, models, refused):
    edit(models[1] / "dataset.json", lambda content: content.update(change))
    edit(models[0] / "dataset.json", lambda content: content.update(change))
    assert f"{models[0]}: its dataset.json is not one of nnU-Net" in refused(*models)


def test_plans_beside_predictions_that_are_none_are_named(refused, tmp_path):
    for name in "ab":
        write_summary(tmp_path / name / "summary.json", FIRST[0])
        (tmp_path / name / "plans.json").write_text('{"configurations": []}')
    assert f"{tmp_path / 'a' / 'plans.json'} is not a plans file" in refused(tmp_path / "a", tmp_path / "b")


def test_a_folder_without_scores_is_told_both_ways_out(models, refused, tmp_path):
    (tmp_path / "predictions").mkdir()
    error = refused(models[0], tmp_path / "predictions")
    assert "is not a model folder" in error
    assert "summary.json that nnUNetv2_evaluate_folder writes" in error


@pytest.mark.parametrize("option", [["--margin", "0"], ["--margin", "inf"], ["--pictures", "-1"]])
def test_a_number_that_cannot_be_is_named(option, models, refused):
    assert f"{option[0]} {option[1]}: give" in refused(*models, *option)


def test_a_patient_whose_name_is_not_there_is_refused(models, refused):
    assert "finds nothing in the case 'patient1_ED'" in refused(*models, "--patient", r"patient(X)?")


def test_a_configuration_that_inherits_its_values_is_no_other(models, tmp_path):
    def inherit(plans):
        plans["configurations"] = {"base": plans["configurations"]["2d"], "2d": {"inherits_from": "base"}}

    edit(models[1] / "plans.json", inherit)
    assert main(["compare", *map(str, models), "-o", str(tmp_path / "out")]) == 0


def test_predictions_in_a_models_folder_are_compared_by_its_plans(models, refused):
    merged = [model / "crossval_results_folds_0_1" for model in models]
    for folder, folds in zip(merged, (FIRST, SECOND), strict=True):
        write_summary(folder / "summary.json", folds[0] | folds[1])
    assert set(Training.read(merged[0]).scores["class"]) == {"RV", "LV"}
    edit(models[1] / "plans.json", lambda plans: plans["configurations"]["2d"].update(batch_size=4))
    assert "in configuration.batch_size" in refused(*merged)


def test_predictions_in_a_models_folder_and_elsewhere_are_compared_by_all_configurations(models, refused, tmp_path):
    inside, elsewhere = models[0] / "test", tmp_path / "elsewhere"
    for folder, folds in ((inside, FIRST), (elsewhere, SECOND)):
        write_summary(folder / "summary.json", folds[0])
    for name in ("plans.json", "dataset.json"):
        shutil.copy(models[0] / name, elsewhere)
    assert main(["compare", str(inside), str(elsewhere), "-o", str(tmp_path / "same")]) == 0
    edit(elsewhere / "plans.json", lambda plans: plans["configurations"]["2d"].update(batch_size=4))
    assert "in configurations.2d.batch_size;" in refused(inside, elsewhere)


def test_predictions_without_a_data_set_of_their_own_have_the_others_classes(models, tmp_path):
    """nnUNetv2_apply_postprocessing copies no dataset.json."""
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, folds in zip(folders, (FIRST, SECOND), strict=True):
        write_summary(folder / "summary.json", folds[0])
    shutil.copy(models[0] / "dataset.json", folders[1])
    assert main(["compare", *map(str, folders), "-o", str(tmp_path / "out")]) == 0
    assert "| RV" in (tmp_path / "out" / "comparison.md").read_text()


def test_predictions_elsewhere_are_compared_by_all_configurations(models, refused, tmp_path):
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder, model, folds in zip(folders, models, (FIRST, SECOND), strict=True):
        write_summary(folder / "summary.json", folds[0])
        for name in ("plans.json", "dataset.json"):
            shutil.copy(model / name, folder)
    edit(folders[1] / "plans.json", lambda plans: plans["configurations"]["2d"].update(batch_size=4))
    assert "in configurations.2d.batch_size" in refused(*folders)


def test_names_with_dots_and_paths_of_other_systems_and_the_background(tmp_path):
    """As nnUNetv2_evaluate_simple leaves them, which knows no dataset.json and scores each label that it is given."""
    path = tmp_path / "summary.json"
    write_summary(path, {"BRATS.001": (0.8, 0.9), "BRATS.002": (0.7, 0.9)})

    def change(content):
        for case in content["metric_per_case"]:
            case["prediction_file"] = case["prediction_file"].replace("/", "\\")
            case["metrics"]["0"] = {"Dice": 0.99, "n_ref": 1000}

    edit(path, change)
    training = Training.read(tmp_path)
    assert training.cases == [(TOGETHER, "BRATS.001"), (TOGETHER, "BRATS.002")]
    assert set(training.scores["class"]) == {"label 1", "label 2"}
    assert training.predictions[TOGETHER, "BRATS.001"] == tmp_path / "BRATS.001.nii.gz"
