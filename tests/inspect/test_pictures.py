"""What a reader of the pictures and tables relies on."""

import re
from collections import defaultdict
from html import unescape
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("captum", reason="needs the extra [inspect]")
from nnunetv2_selfreg.inspect.gradcam import GradCamView
from nnunetv2_selfreg.inspect.measure import Inspection
from nnunetv2_selfreg.inspect.plots import DENSEST, draw_by_stage, draw_grad_cam
from nnunetv2_selfreg.inspect.report import Report
from nnunetv2_selfreg.inspect.values import differences
from nnunetv2_selfreg.terms import BUILT_IN, own_term

STAGES = [f"encoder.stages.{i}" for i in range(5)] + [f"decoder.stages.{i}" for i in range(4)]
CLASSES = ("RV", "myocardium", "LV")
SETTINGS = {"reference": True, "cases_found": 3, "cases_shown": ["a"], "channels": 1, "shown_as": "grey"}


def inspection(letter="", shift=0.0):
    """Made-up values of three cases; in-class shares near 0 and 1 with a large spread."""
    model = SimpleNamespace(
        folder=SimpleNamespace(name=f"nnUNetTrainer__Plans{letter}__2d", dataset="Dataset001_Made"),
        fold="0", epochs=5, students={}, logging={}, terms={term.name: term for term in BUILT_IN}, is_natural=False,
        stages=dict.fromkeys(STAGES), targets=[SimpleNamespace(name=target) for target in CLASSES],
    )  # fmt: skip
    made = Inspection(model, letter)
    made.patches, made.grids = dict.fromkeys("abc", 2), dict.fromkeys(STAGES, (4, 8, 8))
    measures = ("redundancy", "effective_rank", "effective_rank_share", "partner_correlation", "constant_channels")
    rows = []
    for stage in STAGES:
        for measure in (*measures, "scr", "ifd"):
            rows += by_case(stage, "", measure, 0.4 + shift, 0.5, 0.6)
        for target in CLASSES:
            shares = (0, 0, 0.5) if stage.startswith("encoder") else (1, 1, 0.5)
            rows += by_case(stage, target, "in_class_share", *shares)
            rows += by_case(stage, target, "maps_without_mass", 2, 1, 0)
        made.correlation[stage].add(np.eye(4))
        made.importance[stage].add(np.arange(4.0))
    for target in CLASSES:
        rows += by_case("input", target, "class_area", 0.1, 0.1, 0.1)
    for case, *key, value in rows:
        made.cases.setdefault(case, {})[tuple(key)] = value
    return made


def by_case(stage, target, measure, *values):
    return [(case, measure, stage, target, float(value)) for case, value in zip("abc", values, strict=True)]


def with_redundancy(made, values):
    """The same with these values of the redundancy by stage, the same in each case."""
    for case in made.cases.values():
        case |= {("redundancy", stage, ""): value for stage, value in zip(STAGES, values, strict=True)}
    return made


def pair():
    return [inspection("A"), inspection("B", 0.3)]


def values_of(inspections):
    return pd.concat([each.values for each in inspections])


def bars(axis):
    """The lower and upper ends of a panel's error bars."""
    ends = [segment[:, 1] for container in axis.containers for segment in container[2][0].get_segments()]
    return np.array(ends)


def test_error_bars_of_shares_end_at_nothing_and_all():
    made = inspection()
    (axis,) = draw_by_stage([made], made.values, {("in_class_share", "RV"): "RV"}).axes
    ends = bars(axis)
    assert len(ends) == len(STAGES)
    # mean 1/6 and standard deviation 0.29 in the encoder, 5/6 in the decoder
    sd = np.std([0, 0, 0.5], ddof=1)
    np.testing.assert_allclose(ends[0], [0, 1 / 6 + sd])
    np.testing.assert_allclose(ends[-1], [5 / 6 - sd, 1])


def test_error_bars_of_other_measures_are_whole():
    made = inspection()
    (axis,) = draw_by_stage([made], made.values, {("partner_correlation", ""): "pairs"}).axes
    np.testing.assert_allclose(bars(axis)[0], [0.4, 0.6])


def test_differences_are_drawn_around_nothing():
    paired = differences(values_of(pair()))
    labels = {("redundancy", ""): "redundancy", ("in_class_share", ""): "shares"}
    redundancy, shares = draw_by_stage(pair(), paired, labels).axes
    assert redundancy.get_ylabel() == "redundancy"
    assert redundancy.get_ylim()[0] < 0
    assert redundancy.get_ylim()[1] > 0.3
    assert shares.get_ylim()[0] == -shares.get_ylim()[1]  # they do not differ


def test_a_difference_of_rounding_does_not_fill_its_panel():
    paired = differences(values_of([inspection("A"), inspection("B", 1e-9)]))
    (axis,) = draw_by_stage(pair(), paired, {("redundancy", ""): "redundancy"}).axes
    assert axis.get_ylim() == (-0.001, 0.001)


def test_what_only_one_model_has_is_no_empty_panel_of_the_differences():
    models = pair()
    models[1].model.terms["mine"] = own_term("mine", lambda student, teacher: student.mean(), 1.0)
    for case in models[1].cases.values():
        case["mine", STAGES[0], ""] = 1.0
    plots = Report(models, SETTINGS)._plots()
    assert [axis.get_ylabel() for axis in plots["losses"].axes] == [f"{t}, unweighted" for t in ("SCR", "IFD", "mine")]
    differences = [axis.get_ylabel() for axis in plots["differences"].axes]
    assert len(differences) == 6
    assert "B minus A: mine" not in differences


def view(area=0.1):
    heat = np.linspace(0, 4, 64).reshape(8, 8)
    mask = np.zeros((8, 8), bool)
    mask[2:5, 3:6] = True
    return GradCamView("slice 3 of 8", np.zeros((8, 8)), mask, mask, dict.fromkeys(STAGES, heat), area, (20, 24))


def drawn(area=0.1):
    made = inspection()
    made.views["a", "RV", 0] = view(area)
    return draw_grad_cam([made], ("a", "RV", 0))


def test_grad_cam_s_colours_are_those_of_the_bar_and_its_axes_have_units():
    panels = [axis for axis in drawn().axes if axis.get_visible() and axis.get_title()]
    assert len(panels) == len(STAGES) + 2
    for axis in panels:
        assert axis.get_xlabel().endswith("[mm]")
        assert axis.get_ylabel().endswith("[mm]")
        assert len(axis.images) == 1  # nothing shines through
        assert axis.images[0].get_alpha() in (None, 1)


@pytest.mark.parametrize(("area", "top"), [(0.9, 2), (0.1, 10), (0.001, DENSEST)])
def test_the_top_of_the_colour_scale_lies_between_2_and_20(area, top):
    assert drawn(area).axes[1].images[0].norm.vmax == pytest.approx(top)


def page_of(inspections):
    return Report(inspections, SETTINGS).as_html(defaultdict(str))


def rows_of(page, header):
    (table,) = (t for t in re.findall(r"<table.*?</table>", page, re.S) if header in t)
    rows = re.findall(r"<tr>(.*?)</tr>", table, re.S)
    return [re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.S) for row in rows]


def test_the_tables_have_stages_as_rows_and_short_marks():
    page = page_of(pair())
    header, *rows = rows_of(page, "B minus A")
    assert [row[0] for row in rows] == ["E0", "E1", "E2", "E3", "E4", "D0", "D1", "D2", "D3", "all students"]
    column = header.index("redundancy")
    assert rows[0][column].startswith("+0.100 ± ")
    shares = rows_of(page, "RV, A")
    assert shares[1][1] == "0.167 ± 0.289 (3)"
    assert "(n): n maps without mass" in page


def test_wide_tables_and_pictures_scroll_in_a_box_of_their_own():
    page = page_of(pair())
    assert ".wide { overflow-x: auto; }" in page
    wide = re.findall(r'<div class="wide"><(table|img)', page)
    assert wide.count("table") == len(re.findall("<table", page)) == 5
    assert wide.count("img") == len(re.findall("<img", page)) > 0


def findings(inspections):
    return [unescape(line) for line in re.findall("<li>(.*?)</li>", page_of(inspections), re.S)]


def of_measure(lines, text):
    (line,) = (line for line in lines if text in line)
    return line


def test_what_is_seen_in_one_model():
    made = with_redundancy(inspection(), [0.5, 0.5, 9, 0.1, 0.1, 0.1, 9, 0.5, 0.5])
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
    models = [inspection("A"), with_redundancy(inspection("B"), [0.504, 0.496, 0.506, 0.494, *[0.5] * 5])]
    with_redundancy(models[0], [0.5] * 9)
    line = of_measure(findings(models), "B minus A, redundancy")
    assert "higher at 1, lower at 1, within 0.005 at 7 of 9 stages" in line
