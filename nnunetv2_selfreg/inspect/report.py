"""The report: one HTML file that holds its pictures, the pictures themselves, and all figures as JSON."""

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import style

from nnunetv2_selfreg.inspect.compare import Difference, differences, mean_over_targets, summarise
from nnunetv2_selfreg.inspect.figures import draw_all, label, short
from nnunetv2_selfreg.inspect.measure import INPUT, PATCHES_PER_CLASS, STUDENTS, Inspection, Key, Values

MEASURES = {
    "in_class_share": "in-class share",
    "redundancy": "redundancy",
    "effective_rank": "effective rank",
    "effective_rank_share": "effective rank / channels",
    "partner_correlation": "correlation of IFD's pairs",
    "constant_channels": "constant channels",
    "scr": "SCR",
    "ifd": "IFD",
}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 1150px; margin: 2em auto; padding: 0 1em; }
img { max-width: 100%; height: auto; display: block; margin: 1em 0; }
table { border-collapse: collapse; margin: 1em 0; font-size: 13px; font-variant-numeric: tabular-nums; }
th, td { padding: 2px 10px; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
.wide { overflow-x: auto; }
"""


def write_report(
    folder: Path, inspections: Sequence[Inspection], settings: Mapping[str, Any], versions: Mapping[str, str], unit: str
) -> None:
    """Writes `report.html`, `figures/*.png` and `figures.json` into an empty folder.

    Args:
        folder: Where to.
        inspections: One model, or the two of a comparison.
        settings: What was asked for, by name.
        versions: Of the packages, by name.
        unit: The images' unit of length.
    """
    (folder / "figures").mkdir()
    # nnU-Net's own plot changes the global style
    with style.context("default"):
        figures = draw_all(inspections, unit)
        for name, figure in figures.items():
            figure.savefig(folder / "figures" / f"{name}.png", dpi=110)
    content = as_json(inspections, settings, versions)
    (folder / "figures.json").write_text(json.dumps(content, indent=1, allow_nan=False) + "\n", encoding="utf-8")
    pictures = {name: (folder / "figures" / f"{name}.png").read_bytes() for name in figures}
    (folder / "report.html").write_text(as_html(inspections, content, pictures), encoding="utf-8")


def as_json(
    inspections: Sequence[Inspection], settings: Mapping[str, Any], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Every figure of the report, by case and summarised."""
    content: dict[str, Any] = {
        "made_by": "nnUNetv2_selfreg inspect",
        "versions": dict(versions),
        "settings": dict(settings),
        "cases": list(inspections[0].patches),
        "classes": [target.name for target in inspections[0].model.targets],
        "models": [_model_json(inspection) for inspection in inspections],
    }
    if len(inspections) == 2:
        content["differences"] = [
            key._asdict() | difference._asdict() for key, difference in _all_differences(inspections).items()
        ]
    return content


def _model_json(inspection: Inspection) -> dict[str, Any]:
    model = inspection.model
    return {
        "name": model.name,
        "dataset": model.dataset,
        "fold": model.fold,
        "epochs": model.epochs,
        "patches": inspection.patches,
        "stages": [
            {
                "name": stage,
                "channels": inspection.grids[stage][0],
                "grid": list(inspection.grids[stage][1:]),
                "student": stage in model.students,
                "ranking": inspection.ranking(stage).tolist(),
                "importance": inspection.importance(stage).tolist(),
            }
            for stage in model.stages
        ],
        "figures": [
            key._asdict() | summarise(by_case)._asdict() | {"by_case": by_case}
            for key, by_case in _with_means(inspection).items()
        ],
        "logging": {
            name: [value if np.isfinite(value) else None for value in values] for name, values in model.logging.items()
        },
    }


def _with_means(inspection: Inspection) -> Values:
    """The figures, and the in-class share's mean over classes."""
    values = dict(inspection.values)
    if any(key.measure == "in_class_share" for key in values):
        for stage in inspection.model.stages:
            values[Key("in_class_share", stage)] = mean_over_targets(values, "in_class_share", stage)
    return values


def _all_differences(inspections: Sequence[Inspection]) -> dict[Key, Difference]:
    first, second = (_with_means(inspection) for inspection in inspections)
    return differences(first, second)


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
        "<h1>What SelfReg does to a network</h1>",
        _models_table(inspections),
        f"<p>{len(cases)} of {settings['cases_found']} cases: {escape(', '.join(cases))}. "
        f"Preprocessed and cut into patches by nnU-Net; every patch is run once, without mirroring. "
        f"{_image_note(settings)}</p>",
        "<h2>What is seen</h2><ul>" + "".join(f"<li>{escape(line)}</li>" for line in findings(inspections)) + "</ul>",
    ]
    if len(inspections) == 2:
        sections += ["<h2>Differences</h2>", _picture("differences", pictures), _differences_table(inspections)]
    sections += [
        "<h2>Grad-CAM</h2>",
        f"<p>What makes the network see a class: the class's logit, summed over {source}, is traced back to each "
        f"stage, in the {PATCHES_PER_CLASS} patches of a case that show most of the class. A map's in-class share is "
        "the part of its mass that lies inside the class; the dotted line is what an even map would have. A map "
        "without mass (no map) is counted and left out of the means.</p>",
        _picture("in_class_share", pictures) if "in_class_share" in pictures else "<p>No class is seen.</p>",
        _share_table(inspections),
        f"<p>The cases {escape(', '.join(settings['cases_shown']))}, the patch that shows most of the class, in 3D its "
        "slice that does.</p>",
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
        "<p>Each patch as a batch of its own, in evaluation mode; the channels that SCR compares are drawn with the "
        "seed 0 anew for each case. The last decoder stage is the teacher and has none. The students, marked *, are "
        "those of the plans, by default the published ones.</p>",
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


def findings(inspections: Sequence[Inspection]) -> list[str]:
    """What the figures say, one sentence each, higher or lower alike."""
    lines = []
    for number, inspection in enumerate(inspections):
        prefix = f"{'AB'[number]}: " if len(inspections) > 1 else ""
        values = _with_means(inspection)
        for measure in ("in_class_share", "redundancy", "effective_rank_share"):
            means = {
                stage: mean
                for stage in inspection.model.stages
                if (mean := summarise(values.get(Key(measure, stage), {})).mean) is not None
            }
            if not means:
                continue
            low, high = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
            parts = ", ".join(
                f"{part} {np.mean(found):.3f}"
                for part in ("encoder", "decoder")
                if (found := [mean for stage, mean in means.items() if stage.startswith(part)])
            )
            text = f"{prefix}{MEASURES[measure]}: mean of the stages {parts}"
            if len(means) > 1:
                text += f"; lowest at {short(low)} ({means[low]:.3f}), highest at {short(high)} ({means[high]:.3f})"
            area = summarise(mean_over_targets(values, "class_area", INPUT)).mean
            if measure == "in_class_share" and area is not None:
                text += f"; an even map would have {area:.3f}"
            lines.append(text + ".")
    if len(inspections) == 2:
        paired = _all_differences(inspections)
        for measure in ("in_class_share", "redundancy", "effective_rank_share", "partner_correlation", "scr", "ifd"):
            each = {
                stage: difference.mean
                for stage in inspections[0].model.stages
                if (difference := paired.get(Key(measure, stage))) and difference.mean is not None
            }
            if each:
                higher, lower = (sum(sign * mean > 0 for mean in each.values()) for sign in (1, -1))
                lines.append(
                    f"B minus A, {MEASURES[measure]}: higher at {higher}, lower at {lower} of {len(each)} stages; "
                    f"mean of the stages {np.mean(list(each.values())):+.3f}."
                )
        lines.append(
            "Two trainings differ by chance as well: the spread over cases says nothing about another training. "
            "Compare several folds or seeds before you call a difference an effect of the method."
        )
    return lines


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
                row.append(f"{text}, {count} without mass" if count else text)
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
    rows = []
    for stage in [*inspections[0].model.stages, STUDENTS]:
        name = "all students, as in the training" if stage == STUDENTS else short(stage)
        mark = "*" if stage in inspections[0].model.students else ""
        row = [_mean_and_sd(i.values.get(Key(measure, stage), {})) for measure in measures for i in inspections]
        rows.append([name + mark, *row])
    return _table(header, rows)


def _differences_table(inspections: Sequence[Inspection]) -> str:
    rows = []
    for key, difference in _all_differences(inspections).items():
        if key.measure in MEASURES and difference.mean is not None:
            class_name = key.target or ("mean of the classes" if key.measure == "in_class_share" else "")
            name = "all students" if key.stage == STUDENTS else short(key.stage)
            sd = "" if difference.sd is None else f"{difference.sd:.3f}"
            higher = f"{difference.higher} of {difference.cases}"
            rows.append([MEASURES[key.measure], class_name, name, f"{difference.mean:+.3f}", sd, higher])
    order = list(MEASURES.values())
    rows.sort(key=lambda row: (order.index(row[0]), row[1]))
    return _table(
        ["figure", "class", "stage", "B minus A, mean", "standard deviation", "cases where B is higher"], rows
    )


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
