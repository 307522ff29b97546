"""What tests of `inspect` share: the command's line, and its values without the command."""

import json
from collections import defaultdict

from nnunetv2_selfreg.inspect import run
from nnunetv2_selfreg.inspect.measure import measure as measure_models
from nnunetv2_selfreg.inspect.model import InspectedModel
from nnunetv2_selfreg.inspect.report import Report


def opened(folder):
    return InspectedModel(folder, None, "checkpoint_final.pth", "cpu")


def command_line(trained, output, *more, labels=True):
    references = ["--labels", trained.labels] if labels else []
    arguments = [trained.folder, "--images", trained.images, *references, "-o", output, "--device", "cpu", *more]
    return [str(argument) for argument in arguments]


def inspect(trained, output, *more):
    """The values that the command writes."""
    assert run.main(command_line(trained, output, *more)) == 0
    return json.loads((output / "values.json").read_text())


def measure(trained, *more, labels=True):
    """The values and the page that the command would write, the page without its plots."""
    report = Report(*measure_models(run.parse(command_line(trained, "nowhere", *more, labels=labels))))
    return json.loads(json.dumps(report.as_json(), allow_nan=False)), report.as_html(defaultdict(str))


def value(model, measure, stage, target=""):
    (found,) = (v for v in model["values"] if (v["measure"], v["stage"], v["class"]) == (measure, stage, target))
    return found
