"""The page's plots: what their labels and axes tell apart, and what their captions and alternative texts say."""

import json
import re
from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from html import unescape
from pathlib import Path

import pytest

from nnunetv2_selfreg.benchmarks.table import write_table

Runs = Callable[..., Path]
Plot = tuple[list[str], str, str]  # the texts drawn in it, its alternative text and its caption
Plots = Callable[..., list[Plot]]
IMAGES = [(f"testA_{number}", f"testA_{number}") for number in range(1, 5)]
GLAS = {"benchmark": "glas224", "protocol": "each fold alone, 224 x 224"}
FIGURE = re.compile(r'src="data:image/svg\+xml;base64,(.+?)" alt="(.+?)"></div><figcaption>(.+?)</figcaption>')


@pytest.fixture
def plots(tmp_path: Path, given_run: Runs) -> Plots:
    """The plots of runs of trainers, by fold the Dice of each image; published Dice first."""

    def of(dice: Mapping[str, Mapping[str, Sequence[float]]]) -> list[Plot]:
        for trainer, folds in dice.items():
            for fold, values in folds.items():
                measures = [(rule, metric) for rule in ("published", "nnunet") for metric in ("dice", "iou")]
                scores = {(*measure, "gland"): values for measure in measures}
                given_run(tmp_path, trainer, IMAGES, scores, fold=fold, **GLAS)
        write_table(tmp_path, tmp_path / "out")
        found = FIGURE.findall((tmp_path / "out" / "table.html").read_text())
        # matplotlib writes each text as a comment beside its outlines
        drawn = [re.findall(r"<!-- (.+?) -->", b64decode(svg).decode()) for svg, *_ in found]
        return [
            (texts, unescape(alt), unescape(caption)) for texts, (_, alt, caption) in zip(drawn, found, strict=True)
        ]

    return of


def ticks(texts: Sequence[str]) -> list[float]:
    """The numbers at an axis: those before its label."""
    numbers = [text.replace("\N{MINUS SIGN}", "-") for text in texts[: texts.index("Dice [%]")]]
    return [float(text) for text in numbers if re.fullmatch(r"-?[\d.]+", text)]


def test_labels_and_axis_tell_near_means_apart(plots: Plots) -> None:
    arms = {"nnUNetTrainer": 0.9007, "nnUNetTrainerSelfReg": 0.9026, "nnUNetTrainer_5epochs": 0.9031}
    texts = plots({trainer: {"0": [dice] * 4} for trainer, dice in arms.items()})[0][0]
    assert {"90.07", "90.26", "90.31"} <= set(texts)
    assert len([tick for tick in ticks(texts) if 89 <= tick <= 91.3]) >= 4
    assert min(ticks(texts)) > 88


def test_the_axis_does_not_magnify_what_is_no_difference(
    plots: Plots,
) -> None:
    (texts, *_), *_ = plots({"nnUNetTrainer": {"0": [0.9] * 4}})
    assert min(ticks(texts)) <= 89.25
    assert max(ticks(texts)) >= 90.75


def test_error_bars_are_promised_only_where_they_are_drawn(
    plots: Plots,
) -> None:
    once, twice = {"0": [0.9] * 4}, {"0": [0.9] * 4, "1": [0.8] * 4}
    assert "error bars" not in plots({"nnUNetTrainer": once})[0][2]
    some = plots({"nnUNetTrainer": once, "nnUNetTrainerSelfReg": twice})[0][2]
    assert "error bars: standard deviation over runs, where there are several;" in some
    assert "error bars: standard deviation over runs;" in plots({"nnUNetTrainer": twice})[0][2]


def test_alternative_texts_say_what_the_plots_show(plots: Plots) -> None:
    stock = {"0": [0.9, 0.8, 0.7, 0.6], "1": [0.9] * 4}
    means, difference, *_ = plots({"nnUNetTrainer": stock, "nnUNetTrainerSelfReg": {"0": [0.9, 0.9, 0.7, 0.5]}})
    # stock: means of 75 and 90, whose sample deviation is 15 / sqrt(2)
    assert means[1] == (
        "Dice, published rule [%]: nnUNetTrainer, 2d, nnUNetPlans: mean 82.50 ± 10.61; "
        "nnUNetTrainerSelfReg, 2d, nnUNetPlans: mean 75.00"
    )
    assert re.fullmatch(
        r"Dice, published rule: nnUNetTrainerSelfReg, 2d, nnUNetPlans minus nnUNetTrainer, 2d, nnUNetPlans \[points\]: "
        r"mean \+0\.00 \(95 % CI -\d\.\d\d to \+\d\.\d\d\), 1 of 4 cases better and 1 worse",
        difference[1],
    )


def test_a_single_case_has_no_interval_and_none_is_promised(tmp_path: Path, acdc_run: Runs) -> None:
    for trainer in ("nnUNetTrainer", "nnUNetTrainerSelfReg"):
        acdc_run(tmp_path, trainer, patients=1)
    write_table(tmp_path, tmp_path / "out")
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["tables"][0]["rows"]
    assert {row["low"] for row in rows} == {None}
    for svg, alt, _ in FIGURE.findall((tmp_path / "out" / "table.html").read_text()):
        assert "95 % CI" not in b64decode(svg).decode()
        assert "95 % CI" not in alt
