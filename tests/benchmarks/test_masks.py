"""Reference masks: runs on other ones share no table, and published numbers stand beside their own alone."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from nnunetv2_selfreg.benchmarks.monuseg import TEST
from nnunetv2_selfreg.benchmarks.score import Run, write_scores
from nnunetv2_selfreg.benchmarks.table import write_table
from nnunetv2_selfreg.errors import SelfRegError

PASSED_ON, POLYGONS = "masks as passed on", "masks from the XML's polygons"
BY_INSTANCE = "masks resized by instance id"
NAMES = {"monuseg224": TEST, "glas224": [f"testA_{n}" for n in range(1, 61)] + [f"testB_{n}" for n in range(1, 21)]}


def described(benchmark: str, masks: str | None) -> str:
    """A dataset.json as the converter writes it; without masks as its older versions did."""
    entry: dict[str, Any] = {"name": benchmark.removesuffix("224"), "complete": True} | (
        {"masks": masks} if masks else {}
    )
    labels = {"background": 0, "gland" if benchmark.startswith("glas") else "nucleus": 1}
    colours = {"0": "R", "1": "G", "2": "B"}
    return json.dumps({"channel_names": colours, "labels": labels, "file_ending": ".png", "benchmark": entry})


def score(
    folder: Path, benchmark: str, masks: str | None, shift: int = 1, learnt: str | None = "the same"
) -> dict[str, Any]:
    """Scores predictions that are the reference, shifted by so many of its ten rows, into `folder/results`."""
    data = folder / f"{benchmark} {masks}" / "Dataset328_MoNuSeg224"
    reference = np.zeros((224, 224), np.uint8)
    reference[10:20] = 1
    for part, labels in (("labelsTs", reference), ("predictions", np.roll(reference, shift, 0))):
        (data / part).mkdir(parents=True)
        for name in NAMES[benchmark]:
            Image.fromarray(labels).save(data / part / f"{name}.png")
    (data / "dataset.json").write_text(described(benchmark, masks))
    model = data / "nnUNetTrainer__nnUNetPlans__2d"
    (model / "fold_0").mkdir(parents=True)
    plans = {"dataset_name": data.name, "plans_name": "nnUNetPlans", "configurations": {"2d": {}}}
    (model / "plans.json").write_text(json.dumps(plans))
    (model / "dataset.json").write_text(described(benchmark, masks if learnt == "the same" else learnt))
    run = Run(benchmark, data / "predictions", data / "labelsTs", data / "dataset.json", model, "0")
    return write_scores(run, folder / "results" / f"{len(list(folder.iterdir()))}.csv")


def tables(folder: Path) -> dict[str, dict[str, Any]]:
    write_table(folder / "results", folder / "results")
    content = json.loads((folder / "results" / "table.json").read_text())["tables"]
    return {table["protocol"]: table for table in content}


def dice(table: dict[str, Any], kind: str) -> list[float]:
    """The mean Dice of each row of a kind."""
    wanted = (kind, "published", "dice", "mean")
    return [row["value"] for row in table["rows"] if (row["kind"], row["rule"], row["metric"], row["class"]) == wanted]


def test_monuseg_s_two_kinds_of_masks_share_no_table(tmp_path: Path) -> None:
    score(tmp_path, "monuseg224", PASSED_ON, shift=1)
    score(tmp_path, "monuseg224", POLYGONS, shift=2)
    score(tmp_path, "monuseg224", None, shift=3)
    found = tables(tmp_path)
    start = "each fold alone, 224 x 224"
    assert set(found) == {f"{start}, {PASSED_ON}", f"{start}, {POLYGONS}", start}
    # ten rows of which 9, 8 and 7 are common
    scored = {protocol.removeprefix(start): dice(table, "scored") for protocol, table in found.items()}
    assert scored == {f", {PASSED_ON}": [90], f", {POLYGONS}": [80], "": [70]}
    published = {protocol.removeprefix(start): dice(table, "published") for protocol, table in found.items()}
    assert published == {f", {PASSED_ON}": [76.45, 80.18], f", {POLYGONS}": [], "": []}
    text = (tmp_path / "results" / "table.md").read_text()
    assert "Reference masks: the polygons of the archive's XML. Published numbers are scored on other masks" in text
    assert text.count("0.970 to 0.994 Dice") == 2
    assert "TCGA-21-5784-01Z-00-DX1 and TCGA-CH-5767-01Z-00-DX1, are other pictures than the archive's" in text


def test_glas_s_masks_of_older_conversions_share_no_table_with_those_of_today(tmp_path: Path) -> None:
    score(tmp_path, "glas224", BY_INSTANCE, shift=1)
    score(tmp_path, "glas224", "annotations of the archive", shift=2)
    found = tables(tmp_path)
    start = "each fold alone, 224 x 224"
    assert {protocol: dice(table, "scored") for protocol, table in found.items()} == {
        f"{start}, {BY_INSTANCE}": [90],
        start: [80],
    }
    published = [dice(table, "published") for table in found.values()]
    assert published[0] == published[1] == [85.45, 90.93, 91.62, 91.88, 90.18, 89.71]
    text = (tmp_path / "results" / "table.md").read_text()
    assert text.count("Reference masks: resized by instance id, as the published loader does.") == 1
    assert text.count("Reference masks: at 224 x 224 not known to be resized by instance id") == 1


def test_older_conversions_of_glas_are_of_one_kind(tmp_path: Path) -> None:
    for masks in (None, PASSED_ON, "annotations of the archive"):
        assert score(tmp_path, "glas224", masks)["protocol"] == "each fold alone, 224 x 224"


@pytest.mark.parametrize(("masks", "learnt"), [(PASSED_ON, POLYGONS), (POLYGONS, PASSED_ON), (PASSED_ON, None)])
def test_a_model_is_scored_on_the_masks_that_it_was_trained_on(masks: str, learnt: str | None, tmp_path: Path) -> None:
    with pytest.raises(
        SelfRegError, match=f"was trained on {learnt or 'other masks'}, but .* has {masks}; score it on"
    ):
        score(tmp_path, "monuseg224", masks, learnt=learnt)
    assert not (tmp_path / "results").exists()


def test_a_table_over_folds_says_how_they_are_tested(tmp_path: Path) -> None:
    score(tmp_path, "monuseg224", PASSED_ON)
    tables(tmp_path)
    for ending in ("md", "tex", "html"):
        assert "model is tested alone on the whole test set." in (tmp_path / "results" / f"table.{ending}").read_text()


@pytest.mark.parametrize("masks", [["a", "list"], {"a": 1}, 3, "of nobody"])
def test_masks_that_are_not_known_are_none(masks: Any, tmp_path: Path) -> None:
    assert score(tmp_path, "monuseg224", masks)["masks"] is None
