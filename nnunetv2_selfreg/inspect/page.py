"""The report as one HTML page that needs no other file."""

import base64
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from nnunetv2_selfreg.inspect.compare import SHARE, Difference, compare, summarise
from nnunetv2_selfreg.inspect.drawing import label, short
from nnunetv2_selfreg.inspect.findings import COMPARED, MEASURES, findings
from nnunetv2_selfreg.inspect.measure import INPUT, PATCHES_PER_CLASS, STUDENTS, Inspection, Key
from nnunetv2_selfreg.inspect.model import Model

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1150px; margin: 2em auto; padding: 0 1em; }
img { max-width: 100%; height: auto; display: block; margin: 1em 0; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 6px; text-align: right; border-bottom: 1px solid #ddd; white-space: pre; }
th { white-space: normal; vertical-align: bottom; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
"""


def as_html(inspections: Sequence[Inspection], content: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The report as one page without anything outside it.

    Args:
        inspections: One model, or the two of a comparison.
        content: The figures, from `as_json`.
        pictures: PNGs by name.
    """
    settings, cases = content["settings"], content["cases"]
    source = "the reference" if settings["reference"] else "the model's own prediction, as there is no reference"
    grad_cam = [name for name in pictures if name.startswith("grad_cam")]
    sections = [
        "<h1>What the stages of a network look at and hold</h1>",
        _models_table(inspections),
        f"<p>{len(cases)} of {settings['cases_found']} cases: {escape(', '.join(cases))}. "
        f"Preprocessed and cut into patches by nnU-Net; every patch is run once, without mirroring. "
        f"{_image_note(settings)}</p>",
        "<h2>What is seen</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in findings(inspections)) + "</ul>",
    ]
    if len(inspections) == 2:
        sections += ["<h2>Differences</h2>", _picture("differences", pictures), _differences_table(inspections)]
        sections.append(
            "<p>Mean and standard deviation over cases of B minus A, and in how many cases B's is higher (up).</p>"
        )
    sections += [
        "<h2>Grad-CAM</h2>",
        f"<p>What makes the network see a class: the class's logit, summed over {source}, is traced back to each "
        f"stage, in the {PATCHES_PER_CLASS} patches of a case that show most of the class. A map's in-class share is "
        "the part of its mass that lies inside the class; the dotted line is what an even map would have. A map "
        "without mass (no map) is left out of the means; the table counts them, (n): n maps without mass. The bars are "
        "standard deviations over cases, cut off at 0 and 1.</p>",
        _picture("in_class_share", pictures) if "in_class_share" in pictures else "<p>No class is seen.</p>",
        _share_table(inspections),
        f"<p>The cases {escape(', '.join(settings['cases_shown']))}, the patch that shows most of the class, in 3D up "
        "to three slices of it: the one that shows most of the class, and those at a third and two thirds of its "
        "extent.</p>",
        *(_picture(name, pictures) for name in grad_cam),
        "<h2>Channels</h2>",
        "<p>The correlation of each two channels of a stage over all voxels of all patches of a case. Redundancy is "
        "the mean of its absolute values off the diagonal. The effective rank (Roy and Vetterli, 2007) is the number "
        "of equally strong directions that the standardised channels are worth. Constant channels (grey) are left out. "
        "IFD pulls the two halves of its ranking together, rank i and rank i + C/2: a redundancy that rises with it is "
        "no surprise.</p>",
        _picture("channel_similarity", pictures),
        _picture("channels", pictures),
        _measure_table(inspections),
        "<h2>SCR and IFD as the losses see them</h2>",
        "<p>Each patch as a batch of its own, in evaluation mode; the channels that SCR compares are drawn anew for "
        "each patch, the same in both models of a comparison where a stage and the teacher have as many channels in "
        "both. The last decoder stage is the teacher and has none. The students, marked *, are those of the plans, by "
        "default the published ones.</p>",
        _picture("losses", pictures),
        _loss_table(inspections),
        "<p>What IFD ranks the channels by, most important first.</p>",
        _picture("ranking", pictures),
    ]
    if "training" in pictures:
        sections += ["<h2>The training</h2>", _picture("training", pictures)]
    versions = ", ".join(f"{name} {number}" for name, number in content["versions"].items())
    sections.append(f"<p>All numbers, case by case, are in figures.json. Made with {escape(versions)}.</p>")
    title = escape(" and ".join(inspection.model.name for inspection in inspections))
    return (
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>Inspection of {title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(sections) + "\n</body>\n</html>\n"
    )


def _image_note(settings: Mapping[str, Any]) -> str:
    if settings["shown_as"] == "RGB":
        return "Images are shown as RGB."
    first = f" Of the {settings['channels']} image channels the first is shown." if settings["channels"] > 1 else ""
    return f"Image grey values are shown from the 0.5th to the 99.5th percentile.{first}"


def _models_table(inspections: Sequence[Inspection]) -> str:
    rows = [
        [
            label(inspections, number),
            inspection.model.dataset,
            inspection.model.fold,
            str(inspection.model.epochs),
            str(sum(inspection.patches.values())),
        ]
        for number, inspection in enumerate(inspections)
    ]
    return _table(["model", "data set", "fold", "epochs", "patches"], rows)


def _share_table(inspections: Sequence[Inspection]) -> str:
    """In-class share and maps without mass, by class and stage."""
    targets = [target.name for target in inspections[0].model.targets]
    header = ["stage", *(f"{target}{_of(inspections, n)}" for target in targets for n in range(len(inspections)))]
    rows = []
    for stage in inspections[0].model.stages:
        row = [short(stage)]
        for target in targets:
            for inspection in inspections:
                text = _mean_and_sd(inspection.values.get(Key("in_class_share", stage, target), {}))
                without = inspection.values.get(Key("maps_without_mass", stage, target), {})
                count = int(sum(value or 0 for value in without.values()))
                row.append(f"{text} ({count})" if count else text)
        rows.append(row)
    area = [
        _mean_and_sd(inspection.values.get(Key("class_area", INPUT, target), {}))
        for target in targets
        for inspection in inspections
    ]
    return _table(header, [*rows, ["share of the area", *area]])


def _measure_table(inspections: Sequence[Inspection]) -> str:
    measures = ("redundancy", "effective_rank", "partner_correlation", "constant_channels")
    header = ["stage", *(f"channels{_of(inspections, n)}" for n in range(len(inspections)))]
    header += [f"{MEASURES[m]}{_of(inspections, n)}" for m in measures for n in range(len(inspections))]
    rows = []
    for stage in inspections[0].model.stages:
        row = [short(stage), *(str(inspection.grids[stage][0]) for inspection in inspections)]
        row += [_mean_and_sd(i.values[Key(measure, stage)]) for measure in measures for i in inspections]
        rows.append(row)
    return _table(header, rows)


def _loss_table(inspections: Sequence[Inspection]) -> str:
    measures = ("scr", "ifd")
    header = ["stage", *(f"{MEASURES[m]}{_of(inspections, n)}" for m in measures for n in range(len(inspections)))]
    models = [inspection.model for inspection in inspections]
    students = dict.fromkeys(name for model in models for name in model.students)
    blocks = [name for name in students if name not in models[0].stages]
    rows = []
    for stage in [*models[0].stages, *blocks, STUDENTS]:
        row = [_mean_and_sd(i.values.get(Key(measure, stage), {})) for measure in measures for i in inspections]
        rows.append(
            ["all students, as in the training" if stage == STUDENTS else short(stage) + _mark(stage, models), *row]
        )
    return _table(header, rows)


def _mark(stage: str, models: Sequence[Model]) -> str:
    """A star for a student, with the model's letter where it is one in that model only."""
    of = [number for number, model in enumerate(models) if stage in model.students]
    return "" if not of else "*" if len(of) == len(models) else f"* ({'AB'[of[0]]} only)"


def _differences_table(inspections: Sequence[Inspection]) -> str:
    """Mean, standard deviation and sign by stage and figure."""
    found = compare(*inspections)
    classes = [target.name for target in inspections[0].model.targets]
    columns = [(SHARE, target) for target in classes] + [(measure, "") for measure in COMPARED]
    header = ["B minus A"]
    for measure, target in columns:
        name = target or "mean of the classes"
        header.append(f"{MEASURES[measure]}, {name}" if measure == SHARE else MEASURES[measure])
    rows = [
        [
            "all students" if stage == STUDENTS else short(stage),
            *(_difference(found.get(Key(measure, stage, target))) for measure, target in columns),
        ]
        for stage in (*inspections[0].model.stages, STUDENTS)
    ]
    return _table(header, rows)


def _difference(difference: Difference | None) -> str:
    if difference is None or difference.mean is None:
        return ""
    sd = "" if difference.sd is None else f" ± {difference.sd:.3f}"
    return f"{difference.mean:+.3f}{sd}\n{difference.higher} of {difference.cases} up"


def _of(inspections: Sequence[Inspection], number: int) -> str:
    return f", {'AB'[number]}" if len(inspections) > 1 else ""


def _mean_and_sd(by_case: Mapping[str, float | None]) -> str:
    mean, sd, *_ = summarise(by_case)
    if mean is None:
        return "none"
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "<tr>" + "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells) + "</tr>"

    body = "\n".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>\n{line(header, "th")}\n{body}\n</table></div>'


def _picture(name: str, pictures: Mapping[str, bytes]) -> str:
    data = base64.b64encode(pictures[name]).decode("ascii")
    return f'<img alt="{escape(name.replace("_", " "))}" src="data:image/png;base64,{data}">'
