"""What `compare` says of two models, worked out by hand, and what it refuses."""

import json
import math
import re
import shutil
from statistics import mean, stdev

import numpy as np
import pandas as pd
import pytest
import SimpleITK
from scipy.stats import t
from scored import FIRST, SECOND, write_model, write_summary

from nnunetv2_selfreg.cli import main
from nnunetv2_selfreg.compare import plots
from nnunetv2_selfreg.compare.pair import frame
from nnunetv2_selfreg.compare.report import ComparisonReport
from nnunetv2_selfreg.compare.run import patient_of
from nnunetv2_selfreg.compare.summaries import Training
from nnunetv2_selfreg.errors import SelfRegError


@pytest.fixture
def models(tmp_path):
    """Two models of two folds each."""
    results = tmp_path / "Dataset001_Test"
    return (
        write_model(results / "nnUNetTrainer__nnUNetPlans__2d", FIRST),
        write_model(results / "nnUNetTrainerSelfReg__Other__2d", SECOND, selfreg={"lambda_scr": 0.1}),
    )


def compare(*arguments):
    return main(["compare", *map(str, arguments)])


def text_of(output):
    return (output / "comparison.md").read_text()


def test_the_differences_are_those_worked_out_by_hand(models, tmp_path, capsys):
    output = tmp_path / "out"
    assert compare(*models, "-o", output) == 0
    rv = [(SECOND[f][c][0], FIRST[f][c][0]) for f in FIRST for c in FIRST[f]]
    lv = [(SECOND[f][c][1], FIRST[f][c][1]) for f in FIRST for c in FIRST[f] if not math.isnan(FIRST[f][c][1])]
    means = [100 * mean((mean(pair[i] for pair in rv), mean(pair[i] for pair in lv))) for i in (1, 0)]
    text = text_of(output)
    assert f"{means[1] - means[0]:+.2f} Dice points against A ({means[1]:.2f} and {means[0]:.2f})" in text
    assert "4 cases are better by more than 1, 1 worse, of 5" in text
    row = next(line for line in text.splitlines() if line.startswith("| RV"))
    found = [float(value) for value in re.findall(r"[-+]?\d+\.\d+", row)][:3]
    expected = [100 * mean(pair[1] for pair in rv), 100 * mean(pair[0] for pair in rv)]
    assert found == pytest.approx([*expected, expected[1] - expected[0]], abs=0.0051)
    ends = re.search(r"([-+]\d+\.\d+) to ([-+]\d+\.\d+)", row)
    assert float(ends[1]) < found[2] < float(ends[2])
    # over folds: Student's t of two differences
    by_fold = [fold_mean(SECOND[fold]) - fold_mean(FIRST[fold]) for fold in FIRST]
    half = t.ppf(0.975, 1) * stdev(by_fold) / math.sqrt(2)
    assert f"Over the 2 folds it is {mean(by_fold) - half:+.2f} to {mean(by_fold) + half:+.2f}" in text
    shown = capsys.readouterr().out
    assert text.strip() in shown
    assert "With one training of each model and fold" in text
    table = pd.read_csv(output / "cases.csv", index_col="case")
    assert table.loc["patient2_ED", "difference"] == pytest.approx(-5)
    assert table.loc["patient4_ED", "RV difference"] == pytest.approx(6)
    assert math.isnan(table.loc["patient4_ED", "LV difference"])


@pytest.mark.parametrize(("margin", "better", "worse"), [("4", 2, 1), ("6.5", 1, 0)])
def test_better_and_worse_are_by_more_than_the_margin(models, tmp_path, margin, better, worse):
    """The cases differ by +3, +3, -5, +7 and +6 points."""
    assert compare(*models, "--margin", margin, "-o", tmp_path / "out") == 0
    said = f"{better} cases are better by more than {margin}, {worse} worse, of 5"
    assert said.replace("1 cases are", "1 case is") in text_of(tmp_path / "out").replace("1 cases are", "1 case is")


def fold_mean(cases):
    """Mean over cases, then over classes, in points."""
    columns = zip(*cases.values(), strict=True)
    return 100 * mean(mean(value for value in column if not math.isnan(value)) for column in columns)


def test_the_cases_that_differ_most_come_first(models, tmp_path):
    compare(*models, "-o", tmp_path / "out")
    listed = text_of(tmp_path / "out").split("The cases that differ most:")[1]
    assert re.findall(r"patient\d_E[DS]", listed)[:2] == ["patient3_ED", "patient4_ED"]


def test_the_page_has_a_plot_of_cases_and_one_of_folds_and_needs_no_other_file(models, tmp_path):
    compare(*models, "-o", tmp_path / "out")
    page = (tmp_path / "out" / "comparison.html").read_text()
    assert page.count("<svg") == 2
    assert not re.search(r"(src|href)=\"(?!data:|#)", page)
    assert page.count('role="img" aria-label=') == 2


def test_patients_are_the_units_when_a_pattern_names_them(models, tmp_path):
    compare(*models, "-o", tmp_path / "out", "--patient", r"patient\d+")
    assert "Over patients the 95 % interval" in text_of(tmp_path / "out")
    assert pd.read_csv(tmp_path / "out" / "cases.csv")["patient"].nunique() == 4


@pytest.mark.parametrize(
    ("pattern", "message"), [("(", "is no regular expression"), (r"case\d", "finds nothing in the case 'patient1_ED'")]
)
def test_a_pattern_that_names_no_patient_is_refused(pattern, message):
    with pytest.raises(SelfRegError, match=message):
        patient_of(pattern)("patient1_ED")


def test_repetitions_tell_the_noise_of_training(models, tmp_path):
    """The first model's second training is 2 points better in each score, the second model's the same again."""
    better = {fold: {case: tuple(v + 0.02 for v in values) for case, values in FIRST[fold].items()} for fold in FIRST}
    again = [
        write_model(tmp_path / "again" / "Dataset001_Test" / models[0].name, better),
        write_model(tmp_path / "again" / "Dataset001_Test" / models[1].name, SECOND, selfreg={"lambda_scr": 0.1}),
    ]
    assert compare(*models, "--again", *again, "-o", tmp_path / "out") == 0
    # of each fold a standard deviation of 2 / sqrt(2) in one model and 0 in the other
    assert f"by a standard deviation of {math.sqrt((2 + 0) / 2):.2f} points" in text_of(tmp_path / "out")
    # that of a mean of two repetitions in two folds is a half of it, that of a difference sqrt(2) times as much
    assert f"the difference above would have one of {math.sqrt(2) / 2:.2f}." in text_of(tmp_path / "out")
    assert "Small marks are single trainings" in (tmp_path / "out" / "comparison.html").read_text()
    # the second model's are the same, as a copy would be
    assert f"Note: {models[1]} and {again[1]} have the same Dice in every case" in text_of(tmp_path / "out")
    assert text_of(tmp_path / "out").count("have the same Dice") == 1
    assert "With one training" not in text_of(tmp_path / "out")


def test_a_repetition_is_of_the_same_trainer_and_settings(models, tmp_path, capsys):
    again = [
        write_model(tmp_path / "again" / "Dataset001_Test" / model.name, FIRST, selfreg=selfreg)
        for model, selfreg in zip(models, (None, {"lambda_scr": 0.2}), strict=True)
    ]
    assert compare(*models, "--again", *reversed(again), "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert f"{again[1]} is no repetition of {models[0]}: trainer is nnUNetTrainerSelfReg and nnUNetTrainer" in said
    assert compare(*models, "--again", *again, "-o", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert f"{again[1]} is no repetition of {models[1]}: selfreg is {{'lambda_scr': 0.2}} and" in said


def test_a_training_given_twice_is_no_repetition(models, tmp_path, capsys):
    links = [tmp_path / model.name for model in models]
    for link, model in zip(links, models, strict=True):
        link.symlink_to(model)
    for again in (models, links):
        assert compare(*models, "--again", *again, "-o", tmp_path / "out") == 1
        assert "is given twice" in capsys.readouterr().err


def test_a_model_is_not_compared_with_itself(models, tmp_path, capsys):
    assert compare(models[0], models[0], "-o", tmp_path / "out") == 1
    assert f"MODEL_A and MODEL_B are the same folder, {models[0]}" in capsys.readouterr().err


@pytest.mark.parametrize("count", [9, 10])
def test_few_cases_do_not_say_which_is_better(tmp_path, count):
    """Of three cases without a true difference all have one sign in a quarter of tries: then no resample reaches 0."""
    for name, dice in (("a", 0.8), ("b", 0.85)):
        write_summary(tmp_path / name / "summary.json", {f"case{i}": (dice + i / 1000, dice) for i in range(count)})
    assert compare(tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out") == 0
    text = text_of(tmp_path / "out")
    assert text.count("+5.00 to +5.00") == 4  # each case gains 5 points in both classes, so any cases do
    assert ("B is better on other cases like these" in text) == (count == 10)
    assert ("fewer than 10 cases are too few to rely on it" in text) == (count == 9)


def test_folders_of_predictions_are_compared_as_one_fold(tmp_path):
    for name, cases in (("a", FIRST[0]), ("b", SECOND[0])):
        write_summary(tmp_path / name / "summary.json", cases)
    assert compare(tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out") == 0
    assert "With one fold there is no interval over folds" in text_of(tmp_path / "out")
    assert "| label 1" in text_of(tmp_path / "out")


def test_a_class_that_one_model_alone_counts_enters_the_means_and_no_case(tmp_path, capsys):
    """The reference lacks it and so does one prediction: nnU-Net counts nothing there, and 0 in the other."""
    once, many = ({"a": (0.9, math.nan), "b": (0.8, 0.7)}, {"a": (0.9, 0.0), "b": (0.8, 0.7)})
    for name, cases in (("first", once), ("second", many)):
        write_summary(tmp_path / name / "summary.json", cases)
    assert compare(tmp_path / "first", tmp_path / "second", "-o", tmp_path / "out") == 0
    text = text_of(tmp_path / "out")
    assert "B has -17.50 Dice points against A (60.00 and 77.50)" in text
    assert "0 cases are better by more than 1, 0 worse, of 2" in text
    assert "In 1 of the cases a class counts for one model alone" in text
    table = pd.read_csv(tmp_path / "out" / "cases.csv", index_col="case")
    assert table.loc["a", ["A", "B", "difference", "label 2 B"]].tolist() == pytest.approx([90, 90, 0, 0])
    frames = [frame([Training.read(tmp_path / name)], str) for name in ("first", "second")]
    report = ComparisonReport([object()], [object()], *frames, 0.01, [])
    assert [report._title(letter, "a") for letter in "AB"] == ["A, Dice 90.00", "B, Dice 90.00"]  # as in the table


def test_a_class_of_no_reference_that_one_model_predicts_is_named(models, tmp_path):
    for model, first in zip(models, (math.nan, 0.0), strict=True):
        cases = {"patient3_ED": (0.5, first), "patient4_ED": (0.7, math.nan)}
        write_summary(model / "fold_1" / "validation" / "summary.json", cases)
    assert compare(*models, "-o", tmp_path / "out") == 0
    text = text_of(tmp_path / "out")
    said = (
        "LV: left out of folds (or of the whole test set) in which no reference has it and only one model predicts it"
    )
    assert said in text
    of_folds = re.findall(r"^\| 1 +\| +([\d.]+) \| +([\d.]+) ", text, re.MULTILINE)
    assert of_folds == [("60.00", "60.00")]


def test_without_a_class_in_common_there_is_nothing_to_compare(tmp_path):
    for name, scores in (("a", (0.5, math.nan)), ("b", (math.nan, 0.5))):
        write_summary(tmp_path / name / "summary.json", {"p1": scores, "p2": scores})
    assert compare(tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out") == 0
    text = text_of(tmp_path / "out")
    assert "No class counts for both models in any case, so there is nothing to compare." in text
    assert "nan" not in text


def test_labels_are_read_as_nnunet_reads_them(models, tmp_path):
    """Without regions a label may stand in a list, or be written as text."""
    for model in models:
        content = json.loads((model / "dataset.json").read_text())
        (model / "dataset.json").write_text(json.dumps(content | {"labels": {"background": 0, "RV": [1], "LV": "2"}}))
    assert compare(*models, "-o", tmp_path / "out") == 0
    text = text_of(tmp_path / "out")
    assert "| RV " in text
    assert "| LV " in text


def test_scores_that_cannot_be_read_are_no_problem_of_the_output(models, tmp_path, monkeypatch, capsys):
    def read(path):
        raise PermissionError(13, "Permission denied", str(path / "fold_0"))

    monkeypatch.setattr(Training, "read", read)
    assert compare(*models, "-o", tmp_path / "out") == 1
    assert (
        capsys.readouterr().err
        == f"nnUNetv2_selfreg compare: {models[0] / 'fold_0'} cannot be read: Permission denied\n"
    )


def test_as_many_pictures_as_asked_for_are_of_the_cases_that_differ_most(tmp_path):
    cases = [{f"case{i:02}": (0.5 + sign * i / 100, 0.5) for i in range(12)} for sign in (0, 1)]
    for name, scores in zip("ab", cases, strict=True):
        write_summary(tmp_path / name / "summary.json", scores)
    frames = [frame([Training.read(tmp_path / name)], str) for name in "ab"]
    report = ComparisonReport([], [], *frames, 0.01, [])
    assert list(report.most_different(12).index) == [f"case{i:02}" for i in reversed(range(12))]


def test_pictures_find_references_that_were_moved(models, tmp_path, monkeypatch, capsys):
    """The summaries name references on another machine; here they are beside the images. Labels are text."""
    for model in models:
        content = json.loads((model / "dataset.json").read_text())
        (model / "dataset.json").write_text(json.dumps(content | {"labels": {"background": "0", "RV": "1", "LV": [2]}}))
    for path in [path for model in models for path in model.rglob("summary.json")]:
        # a path that the system refuses to look at, as it does in a folder of somebody else's
        path.write_text(path.read_text().replace("/elsewhere/labelsTr", f"/{'x' * 300}/labelsTr"))
    raw = tmp_path / "raw" / "D"
    places = raw / "imagesTr", raw / "labelsTr", *(model / "fold_1" / "validation" for model in models)
    for number, place in enumerate(places):
        place.mkdir(parents=True, exist_ok=True)
        values = np.zeros((2, 20, 20), np.uint8)
        values[0, 5 : 10 + number, 5:10] = 1
        for case in FIRST[1]:
            name = f"{case}_0000.nii.gz" if number == 0 else f"{case}.nii.gz"
            SimpleITK.WriteImage(SimpleITK.GetImageFromArray(values), str(place / name))
    monkeypatch.delenv("nnUNet_raw", raising=False)
    assert compare(*models, "--pictures", "2", "-o", tmp_path / "out") == 1
    said = "--pictures: nnUNet_raw is not set; set it, or name the folder of the images with --images\n"
    assert capsys.readouterr().err.endswith(said)
    assert compare(*models, "--pictures", "1", "--images", raw / "imagesTr", "-o", tmp_path / "named") == 0
    assert len(list((tmp_path / "named" / "pictures").iterdir())) == 1
    monkeypatch.setenv("nnUNet_raw", str(raw.parent))
    assert compare(*models, "--pictures", "2", "-o", tmp_path / "out") == 0
    assert {path.stem for path in (tmp_path / "out" / "pictures").iterdir()} == set(FIRST[1])
    assert (tmp_path / "out" / "comparison.html").read_text().count("data:image/png;base64,") == 2


def test_a_case_of_just_the_margin_is_neither_better_nor_worse():
    """As the table counts it: 0.55 - 0.54 in points is a little more than 1 by rounding."""
    differences = pd.DataFrame({"difference": [100 * 0.55 - 100 * 0.54, 100 * 0.54 - 100 * 0.55]})
    assert differences["difference"].max() > 1
    drawn = plots.cases(differences, 1).lower()
    assert (plots.SAME in drawn, plots.A.lower() in drawn, plots.B.lower() in drawn) == (True, False, False)


def test_a_picture_is_named_after_the_training_that_it_shows(models):
    """Of two repetitions it shows the first, with that one's Dice: patient3_ED has 0.5 and 0.9 there."""
    first = frame([Training.read(models[0]), Training.read(models[1])], str)
    report = ComparisonReport([None, None], [None, None], first, first, 0.01, [])
    assert report._title("A", "patient3_ED") == "A, first training, Dice 70.00"
    assert report.cases.loc["patient3_ED", "A"] == pytest.approx((70 + 77) / 2)


def lose_a_fold(folder):
    shutil.rmtree(folder / "fold_1")


def lose_a_case(folder):
    write_summary(folder / "fold_0" / "validation" / "summary.json", dict(list(SECOND[0].items())[1:]))


def train_on(folder):
    (folder / "fold_1" / "checkpoint_latest.pth").touch()


def lose_the_scores(folder):
    (folder / "fold_1" / "validation" / "summary.json").unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lose_a_fold, r".*nnUNetTrainerSelfReg__Other__2d has no fold 1"),
        (lose_a_case, r"only .*nnUNetTrainer__nnUNetPlans__2d has patient1_ED \(fold 0\)"),
        (train_on, r"fold 1 of .*Other__2d is not finished: checkpoint_latest.pth is there"),
        (lose_the_scores, r"fold 1 of .*Other__2d is not finished: fold_1/validation/summary.json is missing"),
    ],
)
def test_what_only_one_side_has_is_refused_or_left_out_when_asked(harm, message, models, tmp_path, capsys):
    harm(models[1])
    assert compare(*models, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert re.search(message, error)
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()
    assert compare(*models, "-o", tmp_path / "out", "--common-only") == 0
    assert re.search(f"Note: {message}", text_of(tmp_path / "out"))


def test_scores_are_enough(models, tmp_path):
    """Of trainings whose checkpoints stayed on the cluster, or that wrote none."""
    assert compare(*models, "-o", tmp_path / "before") == 0
    for checkpoint in models[1].glob("fold_*/checkpoint_final.pth"):
        checkpoint.unlink()
    assert compare(*models, "-o", tmp_path / "after") == 0
    assert text_of(tmp_path / "before") == text_of(tmp_path / "after")


def test_a_fold_without_a_common_case_is_not_dropped_in_silence(models, tmp_path, capsys):
    other = {"patient9_ED": (0.5, 0.5), "patient9_ES": (0.5, 0.5)}
    write_summary(models[1] / "fold_1" / "validation" / "summary.json", other)
    assert compare(*models, "-o", tmp_path / "out") == 1
    assert "has patient3_ED (fold 1), patient4_ED (fold 1)" in capsys.readouterr().err


def test_other_plans_are_refused_by_key_or_noted_when_asked(models, tmp_path, capsys):
    other = write_model(tmp_path / "other" / "Dataset001_Test" / models[1].name, SECOND, plans={"batch_size": 4})
    assert compare(models[0], other, "-o", tmp_path / "out") == 1
    assert "differ from those of" in (error := capsys.readouterr().err)
    assert "in configuration.batch_size" in error
    assert compare(models[0], other, "-o", tmp_path / "out", "--other-plans") == 0
    assert "configuration.batch_size" in text_of(tmp_path / "out")


def test_other_data_is_refused(models, tmp_path, capsys):
    path = models[1] / "dataset.json"
    path.write_text(path.read_text().replace('"RV"', '"RV cavity"'))
    assert compare(*models, "-o", tmp_path / "out") == 1
    assert "are of other data: labels is" in capsys.readouterr().err


def test_scores_against_other_references_are_refused(models, tmp_path, capsys):
    write_summary(models[1] / "fold_0" / "validation" / "summary.json", SECOND[0], voxels=101)
    assert compare(*models, "-o", tmp_path / "out") == 1
    assert "scored against other references: those of patient1_ED, patient1_ES, patient2_ED" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["{", "{}", '{"metric_per_case": [{"metrics": {}}]}', '{"metric_per_case": []}'])
def test_a_summary_that_is_none_is_refused_by_name(content, models, tmp_path, capsys):
    (models[0] / "fold_0" / "validation" / "summary.json").write_text(content)
    assert compare(*models, "-o", tmp_path / "out") == 1
    error = capsys.readouterr().err
    assert "fold_0/validation/summary.json" in error
    assert error.count("\n") == 1


def test_a_report_is_replaced_only_when_asked_and_nothing_else_ever(models, tmp_path, capsys):
    output = tmp_path / "out"
    compare(*models, "-o", output)
    assert compare(*models, "-o", output) == 1
    assert compare(*models, "-o", output, "--overwrite") == 0
    page = output / "comparison.html"
    page.write_text(page.read_text().replace("nnUNetv2_selfreg compare", "somebody"))
    assert compare(*models, "-o", output, "--overwrite") == 1
    shutil.rmtree(output)
    compare(*models, "-o", output)
    (output / "mine.txt").touch()
    assert compare(*models, "-o", output, "--overwrite") == 1
    assert "is not a report and nothing else" in capsys.readouterr().err


def test_a_folder_that_is_no_model_is_refused(models, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert compare(models[0], tmp_path / "empty", "-o", tmp_path / "out") == 1
    assert "is not a model folder" in capsys.readouterr().err
    assert json.loads((models[0] / "plans.json").read_text())["plans_name"] == "nnUNetPlans"
