"""What a reader of the pictures and tables relies on."""

import re
from types import SimpleNamespace

import numpy as np
import pytest

pytest.importorskip("captum", reason="needs the extra [inspect]")
from PIL import Image

from nnunetv2_selfreg.inspect.findings import findings
from nnunetv2_selfreg.inspect.images import DENSEST, draw_grad_cam
from nnunetv2_selfreg.inspect.measure import Inspection, Key, Picture
from nnunetv2_selfreg.inspect.plots import draw_differences, draw_in_class_share, draw_measures
from nnunetv2_selfreg.inspect.report import write_report

STAGES = [f"encoder.stages.{i}" for i in range(5)] + [f"decoder.stages.{i}" for i in range(4)]
CLASSES = ("RV", "myocardium", "LV")
SETTINGS = {"reference": True, "cases_found": 3, "cases_shown": ["a"], "channels": 1, "shown_as": "grey"}


def inspection(shift=0.0, name="nnUNetTrainer__Plans__2d"):
    """Made-up figures of three cases; in-class shares near 0 and 1 with a large spread."""
    model = SimpleNamespace(
        name=name, dataset="Dataset001_Made", fold="0", epochs=5, students={}, logging={}, final=STAGES[-1],
        stages=dict.fromkeys(STAGES), targets=[SimpleNamespace(name=target) for target in CLASSES],
    )  # fmt: skip
    made = Inspection(model, None, patches=dict.fromkeys("abc", 2), grids=dict.fromkeys(STAGES, (4, 8, 8)))
    measures = ("redundancy", "effective_rank", "effective_rank_share", "partner_correlation", "constant_channels")
    for stage in STAGES:
        for measure in (*measures, "scr", "ifd"):
            made.values[Key(measure, stage)] = {"a": 0.4 + shift, "b": 0.5, "c": 0.6}
        for target in CLASSES:
            low = stage.startswith("encoder")
            shares = {"a": 0.0, "b": 0.0, "c": 0.5} if low else {"a": 1.0, "b": 1.0, "c": 0.5}
            made.values[Key("in_class_share", stage, target)] = shares
            made.values[Key("maps_without_mass", stage, target)] = {"a": 2.0, "b": 1.0, "c": 0.0}
        made._correlation_sums[stage] = np.eye(4) * 3
        made._correlation_cases[stage] = np.full((4, 4), 3)
        made._importance[stage] = np.arange(4.0)
    for target in CLASSES:
        made.values[Key("class_area", "input", target)] = {"a": 0.1, "b": 0.1, "c": 0.1}
    return made


def pair():
    return [inspection(), inspection(0.3, "nnUNetTrainerSelfReg__Plans__2d")]


def bars(axis):
    """The lower and upper ends of a panel's error bars."""
    ends = [segment[:, 1] for container in axis.containers for segment in container[2][0].get_segments()]
    return np.array(ends)


def test_error_bars_of_shares_end_at_nothing_and_all():
    (axis, *_) = draw_in_class_share([inspection()]).axes
    ends = bars(axis)
    assert len(ends) == len(STAGES)
    # mean 1/6 and standard deviation 0.29 in the encoder, 5/6 in the decoder
    sd = np.std([0, 0, 0.5], ddof=1)
    np.testing.assert_allclose(ends[0], [0, 1 / 6 + sd])
    np.testing.assert_allclose(ends[-1], [5 / 6 - sd, 1])


def test_error_bars_of_other_figures_are_whole():
    (axis,) = draw_measures([inspection()], {"partner_correlation": "pairs"}).axes
    np.testing.assert_allclose(bars(axis)[0], [0.4, 0.6])


def test_each_panel_of_the_differences_says_whose_they_are():
    panels = draw_differences(pair()).axes
    assert len(panels) == 5
    assert all(axis.get_ylabel().startswith("B minus A") for axis in panels)


def picture(area=0.1):
    heat = np.linspace(0, 4, 64).reshape(8, 8)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:6] = True
    return Picture(
        "a", "RV", 0, "slice 3 of 8", np.zeros((8, 8)), mask, mask, dict.fromkeys(STAGES, heat), area, (20, 24)
    )


def test_grad_cam_s_colours_are_those_of_the_bar_and_its_axes_have_units():
    figure = draw_grad_cam([inspection()], {0: picture()}, "mm")
    panels = [axis for axis in figure.axes if axis.get_visible() and axis.get_title()]
    assert len(panels) == len(STAGES) + 2
    for axis in panels:
        assert axis.get_xlabel().endswith("[mm]")
        assert axis.get_ylabel().endswith("[mm]")
        assert len(axis.images) == 1  # nothing shines through
        assert axis.images[0].get_alpha() in (None, 1)


@pytest.mark.parametrize(("area", "top"), [(0.9, 2), (0.1, 10), (0.001, DENSEST)])
def test_the_top_of_the_colour_scale_lies_between_2_and_20(area, top):
    figure = draw_grad_cam([inspection()], {0: picture(area)}, "mm")
    assert figure.axes[1].images[0].norm.vmax == pytest.approx(top)


def rows_of(page, header):
    (table,) = (t for t in re.findall(r"<table.*?</table>", page, re.S) if header in t)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.S) for row in rows]


def test_the_tables_have_stages_as_rows_and_short_marks(tmp_path):
    models = pair()
    write_report(tmp_path, models, SETTINGS, {}, "mm")
    page = (tmp_path / "report.html").read_text()
    header, *rows = rows_of(page, "B minus A")
    assert [row[0] for row in rows] == ["E0", "E1", "E2", "E3", "E4", "D0", "D1", "D2", "D3", "all students"]
    column = header.index("redundancy")
    assert rows[0][column].startswith("+0.100 ± ")
    shares = rows_of(page, "RV, A")
    assert shares[1][1] == "0.167 ± 0.289 (3)"
    assert "(n): n maps without mass" in page
    for path in (tmp_path / "figures").iterdir():
        dots_per_inch = Image.open(path).info["dpi"][0]
        assert dots_per_inch == pytest.approx(200, abs=1)


def of_measure(lines, text):
    (line,) = (line for line in lines if text in line)
    return line


def test_what_is_seen_in_one_model():
    made = inspection()
    for stage, value in zip(STAGES, [0.5, 0.5, 9, 0.1, 0.1, 0.1, 9, 0.5, 0.5], strict=True):
        made.values[Key("redundancy", stage)] = dict.fromkeys("abc", value)
    lines = findings([made])
    assert len(lines) == 3
    share = "in-class share: lower in the encoder, mean of the stages 0.167, than in the decoder, 0.833"
    assert of_measure(lines, "in-class share").startswith(share)
    # E2 and D1 lie in the middle
    expected = (
        "redundancy: lower in the deep stages (E3, E4, D0), mean of the stages 0.100, "
        "than in the shallow stages (E0, E1, D2, D3), 0.500."
    )
    assert of_measure(lines, "redundancy") == expected
    rank = of_measure(lines, "effective rank / channels")
    assert rank.startswith("effective rank / channels: about as high in the deep stages")


def test_differences_below_rounding_are_none():
    first, second = inspection(), inspection()
    for stage, value in zip(STAGES, [0.504, 0.496, 0.506, 0.494, *[0.5] * 5], strict=True):
        second.values[Key("redundancy", stage)] = dict.fromkeys("abc", value)
    line = of_measure(findings([first, second]), "B minus A, redundancy")
    assert "higher at 1, lower at 1, within 0.005 at 7 of 9 stages" in line
