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
from nnunetv2_selfreg.inspect.values import differences, short, units
from nnunetv2_selfreg.inspect.words import rounded
from nnunetv2_selfreg.terms import BUILT_IN, own_term

STAGES = [f"encoder.stages.{i}" for i in range(5)] + [f"decoder.stages.{i}" for i in range(4)]
CLASSES = ("RV", "myocardium", "LV")
SETTINGS = {"reference": True, "cases_found": 3, "cases_shown": ["a"], "channels": 1, "shown_as": "grey"}


def inspection(letter="", shift=0.0, fold="0"):
    """Made-up values of three cases; in-class shares near 0 and 1 with a large spread."""
    model = SimpleNamespace(
        folder=SimpleNamespace(name=f"nnUNetTrainer__Plans{letter}__2d", dataset="Dataset001_Made"),
        fold=fold, epochs=5, students={}, logging={}, weights={}, dice=0.5, given=f"results/{letter}",
        terms={term.name: term for term in BUILT_IN}, is_natural=False, scr_channels="drawn",
        left_out=[], stages=dict.fromkeys(STAGES), targets=[SimpleNamespace(name=target) for target in CLASSES],
        modules={stage: stage for stage in STAGES}, chosen=SimpleNamespace(teacher=dict.fromkeys(STAGES[-1:])),
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


def drawn_of(inspections, panels):
    return draw_by_stage(inspections, units(values_of(inspections)), panels).axes


def bars(axis):
    """The lower and upper ends of a panel's error bars."""
    ends = [segment[:, 1] for container in axis.containers for segment in container[2][0].get_segments()]
    return np.array(ends)


def test_error_bars_of_shares_end_at_nothing_and_all():
    (axis,) = drawn_of([inspection()], {("in_class_share", "RV"): "RV"})
    ends = bars(axis)
    assert len(ends) == len(STAGES)
    # mean 1/6 and standard deviation 0.29 in the encoder, 5/6 in the decoder
    sd = np.std([0, 0, 0.5], ddof=1)
    np.testing.assert_allclose(ends[0], [0, 1 / 6 + sd])
    np.testing.assert_allclose(ends[-1], [5 / 6 - sd, 1])


def test_error_bars_of_other_measures_are_whole():
    (axis,) = drawn_of([inspection()], {("partner_correlation", ""): "pairs"})
    np.testing.assert_allclose(bars(axis)[0], [0.4, 0.6])


def test_differences_are_drawn_around_nothing():
    paired = units(differences(values_of(pair())))
    labels = {("redundancy", ""): "redundancy", ("in_class_share", ""): "shares"}
    redundancy, shares = draw_by_stage(pair(), paired, labels).axes
    assert redundancy.get_ylabel() == "redundancy"
    assert redundancy.get_ylim()[0] < 0
    assert redundancy.get_ylim()[1] > 0.3
    assert shares.get_ylim()[0] == -shares.get_ylim()[1]  # they do not differ


def test_a_difference_of_rounding_does_not_fill_its_panel():
    paired = units(differences(values_of([inspection("A"), inspection("B", 1e-9)])))
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


@pytest.mark.parametrize("letters", [[""], ["A", "B"]])
def test_without_references_there_is_no_empty_panel_of_them(letters):
    models = [inspection(letter) for letter in letters]
    for made in models:
        made.views["a", "RV", 0] = view()._replace(reference=None)
    *panels, _ = draw_grad_cam(models, ("a", "RV", 0)).axes
    assert all(axis.images for axis in panels)
    titles = [axis.get_title() for axis in panels]
    assert sum("prediction" in title for title in titles) == len(models)
    assert not [title for title in titles if "reference" in title]


def test_stages_stand_in_the_order_of_the_forward_pass():
    """Encoder and decoder each from left to right, the encoder above."""
    plot = drawn()
    plot.draw_without_rendering()
    panels = {axis.get_title(): axis.get_position() for axis in plot.axes}
    order = sorted((-round(panels[name].y0, 3), panels[name].x0, name) for name in ("E0", "E1", "E4", "D0", "D1", "D3"))
    assert [name for _, _, name in order] == ["E0", "E1", "E4", "D0", "D1", "D3"]


def page_of(inspections):
    return Report(inspections, SETTINGS).as_html(defaultdict(str))


def tables_of(page):
    """Of each table its rows, of each row its cells."""
    tables = (re.findall(r"<tr>(.*?)</tr>", table, re.S) for table in re.findall(r"<table.*?</table>", page, re.S))
    return [[re.findall(r"<t[hd]>(.*?)</t[hd]>", row, re.S) for row in rows] for rows in tables]


def rows_of(page, header):
    (rows,) = (rows for rows in tables_of(page) if header in rows[0])
    return rows


def test_the_tables_have_stages_as_rows_and_short_marks():
    page = page_of(pair())
    header, *rows = rows_of(page, "B minus A")
    assert [row[0] for row in rows] == ["E0", "E1", "E2", "E3", "E4", "D0", "D1", "D2", "D3", "all students"]
    column = header.index("redundancy")
    assert rows[0][column] == "+0.10 ± 0.17\n1 of 3 up"  # 0.3, 0 and 0
    shares = rows_of(page, "in-class share, RV, A")
    # mean and standard deviation of 0, 0 and 0.5
    assert shares[1][1] == "0.2 ± 0.3 (3)"
    assert "(n) counts them" in page


@pytest.mark.parametrize(
    ("value", "spread", "expected"),
    [
        (0.12345, 0.04321, "0.12 ± 0.04"),
        (0.12345, 0.01321, "0.123 ± 0.013"),
        (33.333, 2.1, "33 ± 2"),
        (0.5, 0.00001, "0.500"),
        (-0.0004, 0.3, "0.0 ± 0.3"),
        (4.0, 0.0, "4"),
        (0.25, 0.0, "0.250"),
        (0.12345, float("nan"), "0.12"),
    ],
)
def test_numbers_have_the_digits_that_their_spread_allows(value, spread, expected):
    assert rounded(value, spread) == expected


def test_wide_tables_and_pictures_scroll_in_a_box_of_their_own():
    page = page_of(pair())
    assert ".wide { overflow-x: auto; }" in page
    wide = re.findall(r'<div class="wide"><(table|img|svg)', page)
    assert wide.count("table") == len(re.findall("<table", page)) == 5
    assert wide.count("img") == len(re.findall("<img", page)) > 0
    assert wide.count("svg") == len(re.findall("<svg", page)) == 1


def test_every_picture_has_its_values_as_alternative_text():
    models = [with_redundancy(inspection("A"), [0.5, 0.5, 0.9, 0.2, *[0.5] * 5]), inspection("B")]
    for made in models:
        made.views["a", "RV", 0] = view()
    report = Report(models, SETTINGS)
    texts = re.findall('<img alt="([^"]*)"', report.as_html(dict.fromkeys(report._plots(), "")))
    assert len(texts) == len(report._plots())
    (redundancy,) = (text for text in texts if "redundancy" in text and "SCR" not in text)
    assert "redundancy, A: 0.20 at E3 to 0.90 at E2" in redundancy
    (map_of_class,) = (text for text in texts if text.startswith("Grad-CAM"))
    assert "RV at each stage beside the image, case a, slice 3 of 8." in map_of_class
    assert "A, E0 0 %" in map_of_class
    assert "D3 100 %" in map_of_class


def test_the_page_begins_with_the_models_and_explains_before_it_compares():
    page = page_of(pair())
    header, *models = rows_of(page, "folder")
    assert [row[header.index("Dice, validation")] for row in models] == ["0.500", "0.500"]
    assert [row[header.index("folder")].replace("<wbr>", "") for row in models] == ["results/A", "results/B"]
    headings = re.findall("<h2>(.*?)</h2>", page)
    assert headings[:4] == ["What is found", "The stages", "What is measured", "Differences"]


def findings(inspections):
    return [unescape(re.sub("<.*?>", "", line)) for line in re.findall("<li>(.*?)</li>", page_of(inspections), re.S)]


def test_what_is_found_in_one_model():
    looks, alike, losses = findings([with_redundancy(inspection(), [0.5, 0.5, 9, 0.1, 0.1, 0.1, 9, 0.5, 0.5])])
    # encoder 0, 0 and 0.5; decoder 1, 1 and 0.5; the classes' share of the area 0.1
    assert looks.startswith(
        "The encoder looks at the classes less than the decoder: 17 % of an encoder stage's Grad-CAM lies inside the "
        "class, 83 % of a decoder stage's."
    )
    assert "a map spread evenly would have 10 %" in looks
    # E2 and D1 lie in the middle
    assert alike.startswith(
        "The channels of the deep stages (E3, E4, D0) are less alike than those of the shallow stages (E0, E1, D2, "
        "D3): the mean absolute correlation of two channels of a stage is 0.10 and 0.50. The correlation is highest at "
        "E2 (9.00) and lowest at E3 (0.10)."
    )
    assert losses  # without students nothing is said of them all


def test_what_is_found_in_two_models():
    models = [with_redundancy(inspection("A"), [0.5] * 9),
              with_redundancy(inspection("B"), [0.5, 0.5, 0.2, *[0.5] * 6])]  # fmt: skip
    looks, alike, _ = findings(models)
    assert looks.startswith("B's stages look at the classes as much as A's: 46 % of a stage's Grad-CAM lies inside")
    assert "a map spread evenly would have 10 %" in looks
    assert "The share differs at no stage." in looks
    assert alike.startswith("B's channels are less alike than A's")
    assert "0.47, 0.50 in A (lower in 3 of 3 cases)." in alike
    assert alike.endswith("The correlation differs most at E2: 0.50 in A, 0.20 in B (lower in 3 of 3 cases).")


def test_a_difference_that_half_of_the_cases_contradict_is_not_called_one():
    models = [inspection("A"), inspection("B", -0.3)]
    for case, value in zip("abc", (0.9, 0.3, 0.4), strict=True):  # in A 0.4, 0.5 and 0.6
        models[1].cases[case] |= {("redundancy", stage, ""): value for stage in STAGES}
    _, alike, _ = findings(models)
    assert alike.startswith("B's channels are about as alike as A's: ")
    assert "0.53, 0.50 in A (higher in 1 of 3 cases)." in alike


def without_class_means(made, kept):
    """The same with in-class shares of one class alone."""
    for case in made.cases.values():
        for measure, stage, target in list(case):
            if measure == "in_class_share" and target != kept:
                case[measure, stage, target] = float("nan")
    return made


def test_models_that_see_different_classes_have_nothing_to_compare():
    models = [without_class_means(inspection("A"), "RV"), without_class_means(inspection("B", 0.1), "LV")]
    looks, _, _ = findings(models)
    assert "as much as A's" in looks
    assert "(no case in common)" in looks
    assert "The share: no case has it in both models." in looks


def test_a_model_that_sees_no_class_is_not_called_both():
    models = [inspection("A"), without_class_means(inspection("B"), None)]
    looks, _, _ = findings(models)
    assert looks.strip() == "No class is there to explain in these cases, except in A."


@pytest.mark.parametrize("letters", [("",), ("A", "B")])
def test_a_class_that_the_decoder_alone_looks_at(letters):
    models = [inspection(letter) for letter in letters]
    for case in (case for model in models for case in model.cases.values()):
        for measure, stage, target in list(case):
            if measure == "in_class_share" and stage.startswith("encoder"):
                case[measure, stage, target] = float("nan")
    assert findings(models)[0].strip() == "No class is there to explain in these cases."


def test_a_network_whose_students_are_in_the_decoder_alone():
    made = inspection()
    made.model.stages = made.model.modules = {f"decoder.stages.{i}": f"decoder.stages.{i}" for i in range(2)}
    looks, alike, _ = findings([made])
    assert looks.startswith("Of a decoder stage's Grad-CAM 83 % lies inside the class.")
    assert alike.startswith("The channels of the deep stages (D0) are")
    made.model.stages = made.model.modules = {"decoder.stages.0": "decoder.stages.0"}
    assert findings([made])[1].startswith("The mean absolute correlation of two channels of a stage is 0.50.")


def test_modules_that_are_no_stage_keep_their_names():
    names = ["encoder.stages.2", "decoder.stages.0", "encoder.stages.2 first block", "encoder.stages.2.blocks.0", "mid"]
    assert list(map(short, names)) == ["E2", "D0", "E2 first block", "encoder.stages.2.blocks.0", "mid"]


def folds():
    """Two folds of two models; the redundancy of B is higher by 0.1 in one fold and by 0.3 in the other."""
    levels = {("A", "0"): 0.5, ("A", "1"): 5.0, ("B", "0"): 0.6, ("B", "1"): 5.3}
    return [with_redundancy(inspection(letter, fold=fold), [level] * 9) for (letter, fold), level in levels.items()]


def test_several_folds_are_paired_and_each_is_shown():
    page = page_of(folds())
    tables = [rows for rows in tables_of(page) if rows[0][0] == "B minus A"]
    over_folds, by_fold = ({row[0]: dict(zip(rows[0], row, strict=True)) for row in rows[1:]} for rows in tables)
    # 0.1 and 0.3, whatever the folds' own level
    assert over_folds["E2"]["redundancy"] == "+0.20 ± 0.14\n2 of 2 up"
    assert by_fold["E2"]["redundancy, fold 0"] == "+0.100\n3 of 3 up"
    assert by_fold["E2"]["redundancy, fold 1"] == "+0.300\n3 of 3 up"
    assert "in 2 of 2 folds" in findings(folds())[1]
    assert "at about 50 % of the stages" in page
    content = Report(folds(), SETTINGS).as_json()
    assert [(model["run"], model["fold"]) for model in content["models"]] == [("fold 0", "0"), ("fold 1", "1")] * 2
    (found,) = (x for x in content["differences"] if (x["measure"], x["stage"]) == ("redundancy", STAGES[0]))
    assert found["by_fold"] == pytest.approx({"fold 0": 0.1, "fold 1": 0.3})


def test_with_several_folds_a_dot_is_a_fold():
    (axis,) = drawn_of(folds(), {("redundancy", ""): "redundancy"})
    dots = [line for line in axis.lines if line.get_label() == "one case"]
    assert len(dots) == 2 * 2  # models and folds
    np.testing.assert_allclose(dots[1].get_ydata(), 5.0)
