"""The table from scored runs: its numbers against their definition, and each of its formats."""

import json
import re
from collections.abc import Callable, Sequence
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from nnunetv2_selfreg import cli
from nnunetv2_selfreg.benchmarks import plots
from nnunetv2_selfreg.benchmarks.cells import latex
from nnunetv2_selfreg.benchmarks.metrics import METRICS
from nnunetv2_selfreg.benchmarks.table import write_table
from nnunetv2_selfreg.errors import SelfRegError

Runs = Callable[..., Path]
IMAGES = [(f"testA_{number}", f"testA_{number}") for number in range(1, 9)]
GLAS = {"benchmark": "glas224", "protocol": "each fold alone, 224 x 224"}
ENSEMBLE = GLAS | {"protocol": "ensemble of folds, 224 x 224"}
MEASURES = [("published", "dice"), ("published", "iou"), ("nnunet", "dice"), ("nnunet", "iou")]


def gland(dice: Sequence[float]) -> dict[tuple[str, str, str], Sequence[float]]:
    return {(rule, metric, "gland"): dice for rule, metric in MEASURES}


def tables(folder: Path) -> list[dict[str, Any]]:
    write_table(folder, folder)
    content: list[dict[str, Any]] = json.loads((folder / "table.json").read_text())["tables"]
    return content


def measure(table: dict[str, Any], rule: str = "published", metric: str = "dice") -> dict[str, Any]:
    """The rows of one rule and metric by their kind and name, each by class."""
    found: dict[str, Any] = {"scored": {}, "published": {}, "difference": {}}
    for row in table["rows"]:
        if (row["rule"], row["metric"]) == (rule, metric):
            found[row["kind"]].setdefault(row["name"], {})[row["class"]] = row
    return found


def count(table: dict[str, Any], kind: str) -> int:
    return sum(row["kind"] == kind for row in table["rows"])


def refusal(folder: Path) -> str:
    with pytest.raises(SelfRegError) as caught:
        write_table(folder, folder / "out")
    assert "\n" not in str(caught.value)
    assert not (folder / "out").exists()
    return str(caught.value)


def test_a_lower_distance_is_better(tmp_path: Path, acdc_run: Runs) -> None:
    runs = acdc_run(tmp_path, "nnUNetTrainerSelfReg", 0.91, seed=2), acdc_run(tmp_path, "nnUNetTrainer", 0.9, seed=1)
    (table,) = tables(tmp_path)
    found = measure(table, metric="hd95")["difference"]["nnUNetTrainerSelfReg - nnUNetTrainer, 2d, nnUNetPlans"]
    frames = [pd.read_csv(path).query("rule == 'published' and metric == 'hd95'") for path in runs]
    selfreg, stock = (frame.pivot(index="case", columns="class", values="value") for frame in frames)
    gains = {name: selfreg[name] - stock[name] for name in ("RV", "Myo", "LV")}
    gains["mean"] = (selfreg - stock).mean(axis=1)
    for name, gain in gains.items():
        assert (found[name]["better"], found[name]["worse"]) == (np.sum(gain < -1), np.sum(gain > 1))
        assert found[name]["better"] != found[name]["worse"]
    page = (tmp_path / "table.html").read_text()
    assert "HD95 [voxel], published rule, lower is better" in page
    assert re.search(r"HD95, published rule: .*, one point per case; below 0 is better", page)
    assert re.search(r"Dice, published rule: .*, one point per case; above 0 is better", page)


def test_rows_are_means_over_cases_then_classes(tmp_path: Path, acdc_run: Runs) -> None:
    stock = acdc_run(tmp_path, "nnUNetTrainer", 0.9, seed=1)
    selfreg = acdc_run(tmp_path, "nnUNetTrainerSelfReg", 0.91, seed=2)
    (table,) = tables(tmp_path)
    part = measure(table)
    means = {}
    for row, path in zip(part["scored"].values(), (stock, selfreg), strict=True):
        frame = pd.read_csv(path).query("rule == 'published' and metric == 'dice'")
        by_class = 100 * frame.groupby("class")["value"].mean()
        means[path] = by_class.mean()
        assert (row["mean"]["value"], row["mean"]["sd"]) == (pytest.approx(by_class.mean()), None)
        for name in ("RV", "Myo", "LV"):
            assert row[name]["value"] == pytest.approx(by_class[name])
    assert list(part["difference"]) == ["nnUNetTrainerSelfReg - nnUNetTrainer, 2d, nnUNetPlans"]
    found = part["difference"]["nnUNetTrainerSelfReg - nnUNetTrainer, 2d, nnUNetPlans"]["mean"]
    assert found["value"] == pytest.approx(means[selfreg] - means[stock])
    assert found["low"] < found["value"] < found["high"]
    assert (found["cases"], found["clusters"]) == (40, 20)
    shown = f"{means[selfreg]:.2f}"
    for ending in ("md", "tex", "html"):
        assert shown in (tmp_path / f"table.{ending}").read_text()
    line = pd.read_csv(tmp_path / "table.csv").query(
        "kind == 'scored' and rule == 'published' and metric == 'dice' and `class` == 'mean'"
    )
    np.testing.assert_allclose(sorted(line["value"]), sorted(means.values()))


def test_runs_without_a_model_are_compared_with_none(tmp_path: Path, acdc_run: Runs) -> None:
    """Whatever their files are called."""
    for trainer in ("nnUNetTrainer", "nnUNetTrainerSelfReg"):
        acdc_run(tmp_path, trainer, plans="", configuration="")
    (table,) = tables(tmp_path)
    assert count(table, "difference") == 0
    assert "it was scored without --model" in (tmp_path / "table.md").read_text()


@pytest.mark.parametrize(
    ("key", "values", "said"),
    [("selfreg", ({"lambda_scr": 0.1}, {"lambda_scr": 1}), "SelfReg settings"), ("network", ("a", "b"), "networks")],
)
def test_folds_that_were_not_trained_alike_are_no_row(
    key: str, values: tuple[Any, Any], said: str, tmp_path: Path, given_run: Runs
) -> None:
    for fold, value in zip("01", values, strict=True):
        given_run(tmp_path, "nnUNetTrainerSelfReg", IMAGES, gland([0.9] * 8), **GLAS, fold=fold, **{key: value})
    message = refusal(tmp_path)
    assert message.startswith("fold 0 and fold 1 of nnUNetTrainerSelfReg, nnUNetPlans were not trained alike: other")
    assert f"other {said}; give" in message


def test_folds_that_were_scored_by_different_versions_are_one_row(tmp_path: Path, given_run: Runs) -> None:
    """Older ones do not name the settings that were added, and the oldest no network."""
    settings: dict[str, Any] = {"lambda_scr": 0.015, "encoder_stages": None}
    added = {"teacher": None, "every": 1, "scr_channels": "drawn"}
    for fold, more in (("0", {"selfreg": settings, "network": None}), ("1", {"selfreg": settings | added})):
        given_run(tmp_path, "nnUNetTrainerSelfReg", IMAGES, gland([0.9] * 8), **GLAS, fold=fold, **more)
    (table,) = tables(tmp_path)
    assert len(table["arms"]) == 1


def test_epochs_are_compared_on_the_runs_that_both_have(tmp_path: Path, given_run: Runs) -> None:
    for trainer, folds in (("nnUNetTrainer", {"0": 5, "1": 9}), ("nnUNetTrainerSelfReg", {"0": 5})):
        for fold, epochs in folds.items():
            given_run(tmp_path, trainer, IMAGES, gland([0.9] * 8), **GLAS, fold=fold, epochs={fold: epochs})
    (table,) = tables(tmp_path)
    (found,) = measure(table)["difference"].values()
    assert "compared on fold 0 alone" in found["mean"]["incomplete"]
    assert "epochs differ" not in found["mean"]["incomplete"]


def test_ensembles_of_other_folds_are_marked(tmp_path: Path, acdc_run: Runs) -> None:
    for folds, expected in (("23", "folds differ: 2, 3 with SelfReg, 0, 1 without"), ("10", "")):
        for trainer, of_trainer in (("nnUNetTrainer", "01"), ("nnUNetTrainerSelfReg", folds)):
            acdc_run(tmp_path, trainer, epochs=dict.fromkeys(of_trainer, 5))
        (table,) = tables(tmp_path)
        (found,) = measure(table)["difference"].values()
        assert found["mean"]["incomplete"] == expected


def test_published_rows_stand_beside_their_own_metric_alone(tmp_path: Path, acdc_run: Runs) -> None:
    acdc_run(tmp_path, "nnUNetTrainer")
    (table,) = tables(tmp_path)
    assert list(measure(table)["published"]) == [
        "U-Net",
        "SelfReg-UNet",
        "SwinUnet",
        "SelfReg-SwinUnet",
        "MSVM-UNet",
        "nnFormer",
    ]
    assert {(row["rule"], row["metric"]) for row in table["rows"] if row["kind"] == "published"} == {
        ("published", "dice")
    }
    text = (tmp_path / "table.md").read_text()
    assert r"| published: SelfReg-SwinUnet \[4\] |  | 91.49 | 89.49 | 89.27 | 95.70 |" in text
    assert "checkpoint chosen on the test set" in text
    others = [line for line in text.splitlines() if line.startswith("- Not comparable")]
    assert [re.findall(r"\d\d\.\d\d", line) for line in others] == [
        ["91.54"],
        ["91.99"],
        ["92.65"],
        ["91.65"],
        ["92.28"],
    ]
    assert not re.search(r"^\|.*92\.65", text, re.MULTILINE)


def test_protocols_share_no_table(tmp_path: Path, acdc_run: Runs, given_run: Runs) -> None:
    acdc_run(tmp_path, "nnUNetTrainer")
    acdc_run(tmp_path, "nnUNetTrainerSelfReg", fold="0", protocol="each fold alone")
    given_run(tmp_path, "nnUNetTrainer", IMAGES, gland([0.9] * 8), fold="0", **GLAS)
    content = tables(tmp_path)
    assert [(table["title"], table["protocol"]) for table in content] == [
        ("ACDC", "each fold alone"),
        ("ACDC", "ensemble of folds"),
        ("GlaS", "each fold alone, 224 x 224"),
    ]
    assert [len(table["arms"]) for table in content] == [1, 1, 1]
    assert sum(count(table, "difference") for table in content) == 0


def test_folds_give_a_deviation_and_are_averaged_before_they_are_compared(tmp_path: Path, given_run: Runs) -> None:
    rng = np.random.default_rng(0)
    stock, selfreg = rng.uniform(0.7, 1, (2, 3, 8))
    for fold in range(3):
        given_run(tmp_path, "nnUNetTrainer", IMAGES, gland(stock[fold]), fold=str(fold), **GLAS)
        given_run(tmp_path, "nnUNetTrainerSelfReg", IMAGES, gland(selfreg[fold]), fold=str(fold), **GLAS)
    (table,) = tables(tmp_path)
    part = measure(table)
    for row, values in zip(part["scored"].values(), (stock, selfreg), strict=True):
        means = 100 * values.mean(axis=1)
        assert (row["mean"]["value"], row["mean"]["sd"]) == pytest.approx((means.mean(), means.std(ddof=1)))
        assert row["mean"]["runs"] == 3
        assert f"{means.mean():.2f} ± {means.std(ddof=1):.2f}" in (tmp_path / "table.md").read_text()
    gain = 100 * (selfreg.mean(axis=0) - stock.mean(axis=0))
    (pair,) = part["difference"].values()
    found = pair["mean"]
    assert found["value"] == pytest.approx(gain.mean())
    assert (found["better"], found["worse"], found["cases"]) == (np.sum(gain > 1), np.sum(gain < -1), 8)
    of_folds = 100 * (selfreg - stock).mean(axis=1)
    ends = of_folds.mean() + np.array([-1, 1]) * 4.302653 * of_folds.std(ddof=1) / 3**0.5  # Student's t, 2 degrees
    assert [found["low_over_folds"], found["high_over_folds"]] == pytest.approx(ends)
    text = (tmp_path / "table.md").read_text()
    assert f" | 8 | {ends[0]:+.2f} to {ends[1]:+.2f} |" in text
    assert "Student's t on the differences of the folds' means" in text


def test_seeds_of_a_fold_are_runs_of_their_own(tmp_path: Path, given_run: Runs) -> None:
    for seed in ("1", "2"):
        given_run(tmp_path, "nnUNetTrainer", IMAGES, gland([0.9] * 8), fold="0", seed=seed, **GLAS)
    (table,) = tables(tmp_path)
    assert list(table["arms"][0]["runs"]) == ["fold 0 seed 1", "fold 0 seed 2"]


def test_folds_that_were_repeated_unlike_often_are_marked(tmp_path: Path, given_run: Runs) -> None:
    """The difference is a mean over runs, its interval over folds one over folds."""
    for fold, seed, gain in (("0", "", 0.02), ("0", "1", 0.02), ("0", "2", 0.02), ("1", "", 0), ("2", "", 0)):
        for trainer, value in (("nnUNetTrainer", 0.9), ("nnUNetTrainerSelfReg", 0.9 + gain)):
            given_run(tmp_path, trainer, IMAGES, gland([value] * 8), fold=fold, seed=seed, **GLAS)
        (table,) = tables(tmp_path)
        row = next(row for row in table["rows"] if row["kind"] == "difference" and row["class"] == "mean")
        assert ("some folds were trained more often" in row["incomplete"]) == (fold != "0")
    assert row["value"] == pytest.approx(3 * 2 / 5)
    assert (row["low_over_folds"] + row["high_over_folds"]) / 2 == pytest.approx(2 / 3)


@pytest.mark.parametrize(("stock", "selfreg"), [((0.9, 0.8, 0.1), (0.92, 0.84)), ((0.9, 0.8), (0.92, 0.84, 0.1))])
def test_arms_are_compared_on_the_runs_that_both_have(
    tmp_path: Path, given_run: Runs, stock: Sequence[float], selfreg: Sequence[float]
) -> None:
    for fold, level in enumerate(stock):
        given_run(tmp_path, "nnUNetTrainer", IMAGES, gland([level] * 8), fold=str(fold), **GLAS)
    for fold, level in enumerate(selfreg):
        given_run(tmp_path, "nnUNetTrainerSelfReg", IMAGES, gland([level] * 8), fold=str(fold), **GLAS)
    (pair,) = measure(tables(tmp_path)[0])["difference"].values()
    assert (pair["mean"]["runs"], pair["mean"]["value"]) == (2, pytest.approx(3))
    assert "† compared on fold 0, fold 1 alone: nnUNetTrainerSelfReg - " in (tmp_path / "table.md").read_text()


def test_cases_that_a_rule_does_not_count_are_left_out_and_told(tmp_path: Path, given_run: Runs) -> None:
    values = [0.9, np.nan, 0.7, 0.8, np.nan, 0.8, 0.8, 0.8]
    given_run(tmp_path, "nnUNetTrainer", IMAGES, gland(values), fold="0", **GLAS)
    given_run(tmp_path, "nnUNetTrainerSelfReg", IMAGES, gland([0.9] * 8), fold="0", **GLAS)
    part = measure(tables(tmp_path)[0], "nnunet")
    stock, selfreg = part["scored"].values()
    assert (stock["mean"]["value"], stock["mean"]["not_counted"]) == (pytest.approx(80), 2)
    assert selfreg["mean"]["not_counted"] == 0
    (pair,) = part["difference"].values()
    assert pair["mean"]["cases"] == 6
    assert "Not counted by the rule: 2 scores" in (tmp_path / "table.md").read_text()


def test_incomplete_runs_are_marked_in_every_format(tmp_path: Path, acdc_run: Runs) -> None:
    lacking = {
        "incomplete": ["10 of 20 patients missing"],
        "missing": {"train": [], "test": ["patient009", "patient002"]},
    }
    for trainer in ("nnUNetTrainer", "nnUNetTrainerSelfReg"):
        acdc_run(tmp_path, trainer, patients=10, **lacking)
    tables(tmp_path)
    texts = {ending: (tmp_path / f"table.{ending}").read_text() for ending in ("md", "tex", "csv", "html", "json")}
    assert all("10 of 20 patients missing" in text for text in texts.values())
    assert all("patient002" in texts[ending] for ending in ("md", "tex", "html", "json"))
    assert "| nnUNetTrainerSelfReg, 2d, nnUNetPlans † |" in texts["md"]
    both = "nnUNetTrainer, 2d, nnUNetPlans; nnUNetTrainerSelfReg, 2d, nnUNetPlans"
    assert texts["md"].count("patient002") == 1
    assert f"- Missing in the test set: patient009, patient002 ({both}).\n" in texts["md"]
    assert r"nnUNetTrainerSelfReg, 2d, nnUNetPlans $^{\dagger}$ &" in texts["tex"]
    assert "<td>nnUNetTrainerSelfReg, 2d, nnUNetPlans †</td>" in texts["html"]


def test_footer_states_what_a_row_is_made_of(tmp_path: Path, acdc_run: Runs) -> None:
    acdc_run(tmp_path, "nnUNetTrainerSelfReg", epochs={"0": 50, "1": 1000})
    tables(tmp_path)
    (line,) = [
        line for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("- nnUNetTrainerSelfReg")
    ]
    for part in (
        r"plans nnUNetPlans; configuration 2d; data set Dataset027\_ACDC; runs ensemble; folds 0, 1; epochs 50, 1000;",
        r"SelfReg lambda\_scr 0.015, lambda\_ifd 0.015; 40 cases of 20 patients;",
        "nnunetv2 2.8.1, nnunetv2-selfreg 0.1.0, torch 2.13.0",
    ):
        assert part in line


def test_why_there_is_no_difference_is_said_in_every_text(tmp_path: Path, acdc_run: Runs) -> None:
    acdc_run(tmp_path, "nnUNetTrainerSelfReg")
    acdc_run(tmp_path, "ours", plans="", configuration="", stock=None)
    acdc_run(tmp_path, "nnUNetTrainer_5epochs")
    (table,) = tables(tmp_path)
    assert count(table, "difference") == 0
    assert "Difference" not in (tmp_path / "table.md").read_text()
    selfreg, nameless = "nnUNetTrainerSelfReg, 2d, nnUNetPlans", "ours"
    assert table["unpaired"] == {
        selfreg: "no nnUNetTrainer of the same data set, network and runs is here to compare it with",
        nameless: "it was scored without --model, so it is not known what to compare it with",
    }
    for ending in ("md", "tex", "html"):
        text = (tmp_path / f"table.{ending}").read_text()
        assert f"No difference for {selfreg}: no nnUNetTrainer of" in text
        assert f"No difference for {nameless}: it was scored without" in text
    acdc_run(tmp_path, "nnUNetTrainer")
    assert list(tables(tmp_path)[0]["unpaired"]) == [nameless]


def test_plans_may_differ_in_selfreg_alone(tmp_path: Path, acdc_run: Runs) -> None:
    acdc_run(tmp_path, "nnUNetTrainer")
    acdc_run(tmp_path, "nnUNetTrainerSelfReg", plans="Strong")
    acdc_run(tmp_path, "nnUNetTrainerSelfReg", plans="Big", network="another")
    acdc_run(tmp_path, "nnUNetTrainerSelfReg_5epochs")
    (name,) = measure(tables(tmp_path)[0])["difference"]
    assert name == "nnUNetTrainerSelfReg, 2d, Strong - nnUNetTrainer, 2d, nnUNetPlans"


def test_a_trainer_of_ones_own_is_paired_with_the_stock_trainer_it_is_made_of(tmp_path: Path, acdc_run: Runs) -> None:
    acdc_run(tmp_path, "nnUNetTrainer_5epochs", stock=None)
    acdc_run(tmp_path, "nnUNetTrainerMine", stock="nnUNetTrainer_5epochs")
    (name,) = measure(tables(tmp_path)[0])["difference"]
    assert name == "nnUNetTrainerMine - nnUNetTrainer_5epochs, 2d, nnUNetPlans"


def test_different_epochs_are_marked(tmp_path: Path, acdc_run: Runs) -> None:
    acdc_run(tmp_path, "nnUNetTrainer", epochs={"0": 1000})
    acdc_run(tmp_path, "nnUNetTrainerSelfReg", epochs={"0": 50})
    tables(tmp_path)
    assert "† epochs differ: 50 with SelfReg, 1000 without" in (tmp_path / "table.md").read_text()


def test_different_cases_are_refused_by_name(tmp_path: Path, acdc_run: Runs) -> None:
    acdc_run(tmp_path, "nnUNetTrainer", patients=3)
    acdc_run(tmp_path, "nnUNetTrainerSelfReg", patients=2)
    text = refusal(tmp_path)
    assert "nnUNetTrainerSelfReg, 2d, nnUNetPlans lacks patient003_frame01, patient003_frame12, which nnUNet" in text


def test_folds_with_different_cases_are_refused_by_name(tmp_path: Path, given_run: Runs) -> None:
    given_run(tmp_path, "nnUNetTrainer", IMAGES, gland([0.9] * 8), fold="0", **GLAS)
    given_run(tmp_path, "nnUNetTrainer", IMAGES[1:], gland([0.9] * 7), fold="1", **GLAS)
    assert "nnUNetTrainer: fold 1 lacks testA_1, which fold 0 has" in refusal(tmp_path)


def test_folder_that_cannot_be_a_table_is_refused(tmp_path: Path, acdc_run: Runs) -> None:
    assert "holds no scores" in refusal(tmp_path)
    path = acdc_run(tmp_path, "nnUNetTrainer", patients=2)
    path.with_name("again.csv").write_bytes(path.read_bytes())
    path.with_name("again.json").write_bytes(path.with_suffix(".json").read_bytes())
    assert "are both ensemble of nnUNetTrainer; remove one" in refusal(tmp_path)
    path.with_name("again.json").unlink()
    assert "again.csv has no again.json beside it" in refusal(tmp_path)
    path.with_name("again.csv").write_text("a,b\n1,2\n")
    assert "again.csv is not what leaderboard score writes" in refusal(tmp_path)
    path.with_name("again.csv").write_text("")
    assert "again.csv cannot be read" in refusal(tmp_path)


def test_files_are_the_same_byte_for_byte(tmp_path: Path, acdc_run: Runs) -> None:
    for trainer in ("nnUNetTrainer", "nnUNetTrainerSelfReg"):
        acdc_run(tmp_path, trainer, patients=4)
    contents = []
    for name in ("one", "two"):
        contents.append([path.read_bytes() for path in write_table(tmp_path, tmp_path / name)])
    assert contents[0] == contents[1]


def test_command_writes_into_the_results_and_again(
    tmp_path: Path, acdc_run: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    acdc_run(tmp_path, "nnUNetTrainer", patients=2)
    expected = "".join(f"wrote {tmp_path / f'table.{ending}'}\n" for ending in ("md", "tex", "csv", "html", "json"))
    for _ in range(2):
        assert cli.main(["leaderboard", "table", str(tmp_path)]) == 0
        assert capsys.readouterr().out == expected
    assert cli.main(["leaderboard", "table", str(tmp_path / "none")]) == 1
    assert "holds no scores" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["table.tex", "table.json"])
def test_a_file_that_is_of_no_table_stays(tmp_path: Path, acdc_run: Runs, name: str) -> None:
    acdc_run(tmp_path, "nnUNetTrainer", patients=2)
    mine = tmp_path / "paper" / name
    mine.parent.mkdir()
    mine.write_text('{"mine": 1}')
    with pytest.raises(SelfRegError, match=rf"{name} has no table\.json of a leaderboard beside it; move it, or name"):
        write_table(tmp_path, tmp_path / "paper")
    assert [path.name for path in mine.parent.iterdir()] == [name]
    assert mine.read_text() == '{"mine": 1}'


def test_latex_is_well_formed(tmp_path: Path, acdc_run: Runs) -> None:
    for trainer in ("nnUNetTrainer_5epochs", "nnUNetTrainerSelfReg_5epochs"):
        acdc_run(tmp_path, trainer, patients=4, incomplete=["16 of 20 patients missing"])
    tables(tmp_path)
    text = (tmp_path / "table.tex").read_text()
    bare = re.sub(r"\\[{}$&%#_\\]", "", text.split("\n", 1)[1])
    depth = np.cumsum([{"{": 1, "}": -1}.get(character, 0) for character in bare])
    assert depth.min() >= 0
    assert depth[-1] == 0
    assert bare.count("$") % 2 == 0
    assert "_" not in bare
    assert not re.search(r"[^\x00-\x7f]", text)
    for kind in ("table", "tabular", "itemize"):
        assert text.count(rf"\begin{{{kind}}}") == text.count(rf"\end{{{kind}}}") > 0
    for columns, body in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.DOTALL):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert all(len(re.findall(r"(?<!\\)&", row)) == len(columns) - 1 for row in rows)
        assert body.index(r"\toprule") < body.index(r"\midrule") < body.index(r"\bottomrule")


def test_every_special_character_of_latex_is_escaped() -> None:
    assert latex(r"a_b 5% <x> ~ ^ \ {}#$&") == (
        r"a\_b 5\% $<$x$>$ \textasciitilde{} \textasciicircum{} \textbackslash{} \{\}\#\$\&"
    )


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.sources += [str(value) for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_needs_no_other_file(tmp_path: Path, acdc_run: Runs) -> None:
    for trainer in ("nnUNetTrainer", "nnUNetTrainerSelfReg<b>"):
        acdc_run(tmp_path, trainer, patients=4).rename(tmp_path / f"{len(trainer)}.csv")
    for path in tmp_path.glob("acdc_*.json"):
        path.rename(tmp_path / f"{len(path.stem.split('_')[1])}.json")
    tables(tmp_path)
    page = _Page()
    text = (tmp_path / "table.html").read_text()
    page.feed(text)
    assert not page.open
    pictures = [source for source in page.sources if not source.startswith("#")]
    assert all(source.startswith("data:image/svg+xml;base64,") for source in pictures)
    assert len(pictures) == 5  # one per measure; <b> has no stock trainer of this name
    assert "nnUNetTrainerSelfReg&lt;b&gt;" in text


def test_fewer_folds_than_the_protocol_scores_are_marked(tmp_path: Path, given_run: Runs) -> None:
    for trainer, folds in (("nnUNetTrainer", "01234"), ("nnUNetTrainerSelfReg", "013")):
        for fold in folds:
            scores = {("published", "dice", "gland"): [0.9, 0.8]}
            scores |= {("published", "iou", "gland"): [0.8, 0.7]}
            scores |= {("nnunet", *key[1:]): values for key, values in scores.items()}
            given_run(tmp_path, trainer, [("testA_1", "testA_1"), ("testA_2", "testA_2")], scores, fold=fold, **GLAS)
    # a model of all cases is no fold; of a file that an older version wrote it stands beside the folds
    given_run(tmp_path, "nnUNetTrainerSelfReg", IMAGES[:2], scores, fold="all", **GLAS)
    write_table(tmp_path, tmp_path)
    arms = json.loads((tmp_path / "table.json").read_text())["tables"][0]["arms"]
    assert {arm["trainer"]: arm["incomplete"] for arm in arms} == {
        "nnUNetTrainer": [],
        "nnUNetTrainerSelfReg": ["3 of 5 folds"],
    }


def test_an_ensemble_is_not_one_of_the_folds(tmp_path: Path, given_run: Runs) -> None:
    given_run(tmp_path, "nnUNetTrainer", IMAGES, gland([0.9] * 8), fold="ensemble", **ENSEMBLE)
    write_table(tmp_path, tmp_path)
    (arm,) = json.loads((tmp_path / "table.json").read_text())["tables"][0]["arms"]
    assert arm["incomplete"] == []


@pytest.mark.parametrize("together", [True, False])
def test_the_ensemble_of_a_protocol_of_single_folds_is_called_so(
    tmp_path: Path, given_run: Runs, together: bool
) -> None:
    fold, protocol = ("ensemble", ENSEMBLE) if together else ("0", GLAS)
    given_run(tmp_path, "nnUNetTrainer", IMAGES, gland([0.9] * 8), fold=fold, **protocol)
    write_table(tmp_path, tmp_path)
    said = "The protocol's row is each fold alone. Here the folds' networks predict together"
    assert (said in (tmp_path / "table.md").read_text()) == together


@pytest.mark.parametrize(("metric", "marked"), [("dice", plots.WORSE), ("hd95", plots.BETTER)])
def test_a_case_is_drawn_in_the_colour_of_what_is_better(metric: str, marked: str) -> None:
    """Seven cases that are 5 lower; the legend has each colour once."""
    gains = pd.DataFrame({"RV": [-5.0] * 7})
    summary = pd.DataFrame({"mean": -5.0, "low": -6.0, "high": -4.0}, index=["RV"])
    drawn = plots.differences(gains, METRICS[metric], summary).decode().lower()
    (other,) = {plots.BETTER, plots.WORSE} - {marked}
    assert drawn.count(marked.lower()) - drawn.count(other.lower()) >= 7
