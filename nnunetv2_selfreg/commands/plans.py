"""`nnUNetv2_selfreg plans`: a new plans file with other SelfReg settings, beside the one it is made from.

nnU-Net names its results folder after the plans, so settings under their own plans identifier never meet another
run's results. The preprocessed data stay shared, since `data_identifier` is left as it is.
"""

import argparse
import re
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.commands.datasets import dataset_folder
from nnunetv2_selfreg.errors import SelfRegError, reason
from nnunetv2_selfreg.files import read_json, write_json
from nnunetv2_selfreg.settings import (
    CHOICES,
    KEY,
    OTHER_JSON,
    PLACES,
    STAGES,
    SelfRegSettings,
    check_places,
    option_types,
    read_plans,
    resolve,
)
from nnunetv2_selfreg.terms import BUILT_IN, Term

TRAINER = "nnUNetTrainerSelfReg"
CLEARED, NONE = (*STAGES, "teacher"), "null"  # the settings that a word makes the default again


def main(arguments: Sequence[str]) -> int:
    """Writes the new plans file and prints how to train with it.

    Args:
        arguments: The command line after `nnUNetv2_selfreg plans`.

    Returns:
        The exit code, 0.

    Raises:
        SelfRegError: Something asked for is not there, is not allowed or cannot be written.
    """
    # the trainer first: its terms say which settings there are
    first = argparse.ArgumentParser("nnUNetv2_selfreg plans", add_help=False, allow_abbrev=False)
    first.add_argument(
        "-tr", dest="trainer", default=TRAINER, help="the trainer whose terms are weighted; default: %(default)s"
    )
    terms = trainer_terms(first.parse_known_args(arguments)[0].trainer)
    types = option_types(terms)
    parsed = _parser(first, types).parse_args(arguments)
    parsed.source = parsed.source.removesuffix(".json")
    given = {name: value for name in types if (value := getattr(parsed, f"{KEY}.{name}")) is not None}
    given |= {name: _stages(_option(name), given[name]) for name in STAGES if name in given}
    given |= {name: None for name in CLEARED if given.get(name) in (NONE, [NONE])}
    if not_used := [
        name for name in given if name.startswith("lambda_") and name not in {term.setting for term in terms}
    ]:
        raise SelfRegError(f"-tr {parsed.trainer} has no term for {', '.join(map(_option, not_used))}; leave it out")
    if parsed.list_modules:
        print(_modules(parsed, given, terms))
        return 0
    if not parsed.output:
        raise SelfRegError("-o PLANS is missing: the identifier of the new plans")
    if not given:
        raise SelfRegError(f"no setting is given; give at least one of {', '.join(map(_option, types))}")
    folder = dataset_folder(parsed.dataset)
    source, target = (
        folder / f"{parsed.source}.json",
        folder / f"{check_identifier(parsed.output)}.json",
    )
    plans = read_plans(source)
    if target.exists() and target.samefile(source):
        raise SelfRegError(f"-o {parsed.output} is the plans file to start from; choose another identifier")
    if target.exists() and not parsed.overwrite:
        raise SelfRegError(f"{target} exists already; choose another -o, or replace it with --overwrite")
    if target.exists() and _are_nnunets(target):
        raise SelfRegError(f"{target} was not written by this command, it has no SelfReg settings; choose another -o")

    changed = with_settings(plans, parsed.output, parsed.configurations, given, terms)
    _check_networks(parsed, folder, plans, changed, terms)
    report = _report(parsed, folder, plans, changed, terms)
    write_json(target, changed, indent=4)
    print("\n".join([f"wrote {target}", *report]))
    return 0


def with_settings(
    plans: Mapping[str, Any],
    identifier: str,
    configurations: Sequence[str] | None,
    given: Mapping[str, Any],
    terms: Sequence[Term] = BUILT_IN,
) -> dict[str, Any]:
    """Merges settings into configurations of the plans; settings that are there already, also inherited ones, stay.

    Args:
        plans: nnU-Net's plans; they are not changed.
        identifier: The name of the new plans.
        configurations: The configurations that get the settings; every one when left out.
        given: The settings by name.
        terms: The terms of the trainer.

    Returns:
        The new plans.

    Raises:
        SelfRegError: A configuration does not exist, or a setting is unknown, wrong or in the wrong place.
    """
    check_places(plans)
    changed = dict(plans["configurations"])
    for name in configurations or list(changed):
        inherited = resolve(plans, name)
        SelfRegSettings.from_plans(inherited, terms)
        settings = {**inherited.get(KEY, {}), **given}
        SelfRegSettings.from_plans({KEY: settings}, terms)
        changed[name] = {**changed[name], KEY: settings}
    return {**plans, "plans_name": identifier, "configurations": changed}


def trainer_terms(trainer: str) -> Sequence[Term]:
    """The terms that a trainer adds to nnU-Net's loss.

    Args:
        trainer: Its name.

    Raises:
        SelfRegError: This nnU-Net does not know the trainer, or it is not a SelfReg trainer.
    """
    if trainer == TRAINER:  # nnU-Net, whose import takes seconds, is not needed
        return BUILT_IN
    from nnunetv2_selfreg.model_folder import installed_trainer
    from nnunetv2_selfreg.trainer import stock_trainer

    found: Any = installed_trainer(trainer, "-tr")
    if stock_trainer(found) is None:
        raise SelfRegError(f"-tr {trainer} is not a SelfReg trainer and would ignore the settings")
    terms: Sequence[Term] = found.terms
    return terms


def _are_nnunets(path: Path) -> bool:
    """Whether plans are whole and hold no settings of ours."""
    try:
        return not any(KEY in configuration for configuration in read_plans(path)["configurations"].values())
    except SelfRegError:
        return False


def check_identifier(identifier: str, option: str = "-o") -> str:
    """Refuses what cannot be the name of a plans file, or would break nnU-Net's folder names."""
    if not re.fullmatch(r"(?!.*__)[A-Za-z0-9][A-Za-z0-9_.-]*(?<!\.json)(?<!_)", identifier):
        raise SelfRegError(
            f"{option} {identifier} is not a plans identifier; use letters, digits, '-', '.' and single '_', no .json "
            "and no '_' at the end"
        )
    if identifier in OTHER_JSON:
        raise SelfRegError(f"{option} {identifier}: nnU-Net keeps another file under this name; choose another one")
    return identifier


def _parser(first: argparse.ArgumentParser, types: Mapping[str, type]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg plans",
        description="Writes a new plans file with other SelfReg settings. The preprocessed data stay shared.",
        allow_abbrev=False,
        parents=[first],
    )
    add = parser.add_argument
    add("-d", dest="dataset", required=True, metavar="DATASET", help="name or number of the data set")
    add("-p", dest="source", default="nnUNetPlans", metavar="PLANS", help="start from these; default: %(default)s")
    add("-c", dest="configurations", nargs="+", metavar="CONFIGURATION", help="the configurations to set; default: all")
    add("-o", dest="output", metavar="PLANS", help="identifier of the new plans")
    add(
        "--list-modules",
        action="store_true",
        help="write nothing; show which modules of the network that -tr builds for -c can be students or teacher",
    )
    add("--overwrite", action="store_true", help="replace plans that have the new identifier already")
    for name, type_ in types.items():
        kind: dict[str, Any] = {"nargs": "+"} if type_ is list else {"type": type_}
        words = f"setting {name}: {_words(name, type_)}{', or null for the default' * (name in CLEARED)}"
        names = dict.fromkeys([_option(name), f"--{name}"])  # as the plans write it, too
        add(*names, dest=f"{KEY}.{name}", metavar="VALUE", help=words, **kind)
    return parser


def _words(name: str, type_: type) -> str:
    """What an option that sets a setting takes, in words."""
    by_type = {list: "1,2 or modules' names", float: "at least 0", int: "1, 2, ...", str: "a module's name"}
    return " or ".join(CHOICES.get(name, ())) or by_type[type_]


def _stages(option: str, given: Sequence[str]) -> list[int | str]:
    """The stages of a list as people type it: `1,2`, `1 2`, `[1, 2]`, `encoder.stages.1`, `["encoder.stages.1"]`."""
    text = " ".join(given).strip()
    inside = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    items = [item.strip("\"'") for item in re.split(r"\s*,\s*|\s+", inside.strip())] if inside.strip() else []
    for item in items:
        if not re.fullmatch(r"[\w.]+", item):
            raise SelfRegError(
                f"{option} {text} is not a list of stages; write 1,2 or modules' names, see --list-modules"
            )
    return [int(item) if item.isdecimal() else item for item in items]


def _check_networks(
    parsed: argparse.Namespace,
    folder: Path,
    plans: Mapping[str, Any],
    changed: Mapping[str, Any],
    terms: Sequence[Term],
) -> None:
    """Refuses settings that name stages or modules which their configuration's network does not have."""
    named: list[str] = []
    for name in changed["configurations"]:
        old, new = (resolve(content, name).get(KEY, {}) for content in (plans, changed))
        asked = not parsed.configurations or name in parsed.configurations
        if (asked or new != old) and any(new.get(place) is not None for place in PLACES):
            named.append(name)
    if not named:  # nnU-Net, whose import takes seconds, is not needed
        return
    with redirect_stdout(StringIO()):
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    from nnunetv2_selfreg.model_folder import planned_network
    from nnunetv2_selfreg.taps import choose_students
    from nnunetv2_selfreg.trainer import find_trainer

    dataset = read_json(folder / "dataset.json", "dataset.json of nnU-Net")
    manager = PlansManager(dict(changed))
    for name in named:
        try:
            network = planned_network(find_trainer(parsed.trainer), manager, name, dataset)
        except Exception as error:  # whatever the network's author raises
            raise SelfRegError(
                f"{name}: {parsed.trainer} cannot build the network of {parsed.source}.json and dataset.json, where "
                f"stages are looked up: {reason(error)}; see nnUNetv2_selfreg doctor"
            ) from None
        try:
            choose_students(network, SelfRegSettings.from_plans(resolve(changed, name), terms))
        except SelfRegError as error:
            raise SelfRegError(f"{name}: {error}") from None


def _modules(parsed: argparse.Namespace, given: Mapping[str, Any], terms: Sequence[Term]) -> str:
    """The modules of one configuration's network; with settings that are given, as the plans with them would train."""
    from nnunetv2_selfreg.commands.modules import module_table
    from nnunetv2_selfreg.trainer import find_trainer

    folder = dataset_folder(parsed.dataset)
    plans = with_settings(
        read_plans(folder / f"{parsed.source}.json"), parsed.source, parsed.configurations, given, terms
    )
    names = parsed.configurations or list(plans["configurations"])
    if len(names) > 1:
        raise SelfRegError(f"--list-modules shows one network; choose one of {', '.join(names)} with -c")
    settings = SelfRegSettings.from_plans(resolve(plans, names[0]), terms)
    return module_table(folder, plans, names[0], find_trainer(parsed.trainer), settings)


def _option(name: str) -> str:
    return "--" + name.replace("_", "-")


def _report(
    parsed: argparse.Namespace,
    folder: Path,
    plans: Mapping[str, Any],
    changed: Mapping[str, Any],
    terms: Sequence[Term],
) -> list[str]:
    """What to tell of the changed plans: the settings, the preprocessed data and the commands to train."""
    named = parsed.configurations or list(plans["configurations"])
    lines: list[str] = []
    missing: dict[str, str] = {}
    for name in changed["configurations"]:
        resolved = resolve(changed, name)
        if name in named or resolved.get(KEY) != resolve(plans, name).get(KEY):
            inherited = "" if name in named else " (inherited)"
            lines.append(f"  {name}: {SelfRegSettings.from_plans(resolved, terms)}{inherited}")
        data = resolved.get("data_identifier")
        if name in named and data and not (folder / data).is_dir():
            missing.setdefault(data, name)
    for data, name in missing.items():
        command = f"nnUNetv2_preprocess -d {folder.name[7:10]} -plans_name {parsed.source} -c {name}"
        lines.append(f"{folder / data} is not there yet: {command}")
    if not missing:
        lines.append(f"it shares the preprocessed data of {parsed.source}; nothing must be preprocessed again")
    return [*lines, "train with", *(f"  {_train_command(parsed, name, changed)}" for name in named)]


def _train_command(parsed: argparse.Namespace, configuration: str, plans: Mapping[str, Any]) -> str:
    previous = resolve(plans, configuration).get("previous_stage")
    command = f"nnUNetv2_train {parsed.dataset.rstrip('/')} {configuration} 0 -tr {parsed.trainer} -p {parsed.output}"
    return f"{command}  # after every fold of {previous}, with the same -tr and -p" if previous else command
