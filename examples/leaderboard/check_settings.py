"""What is wrong with a workflow's settings, one line each, before anything runs; the study uses it, too."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator  # Snakemake brings it; its own `validate` shows the schema, not a line each
from snakemake.exceptions import WorkflowError


def stop_if(problems: Iterable[str]) -> None:
    """Ends the workflow, before anything runs, with every problem on a line of its own."""
    if lines := "\n".join(problems):
        raise WorkflowError(f"the settings cannot be run:\n{lines}")


def wrong_settings(config: Mapping[str, Any], schema: Path) -> Iterator[str]:
    """What a JSON schema says of the settings."""
    for error in Draft202012Validator(yaml.safe_load(schema.read_text())).iter_errors(config):
        place = ".".join(map(str, error.absolute_path))
        if error.validator == "additionalProperties":
            known = error.schema["properties"]
            unknown = [f"{place}.{name}".lstrip(".") for name in error.instance if name not in known]
            yield f"{', '.join(unknown)}: unknown; known: {', '.join(known)}"
        else:
            yield f"{place}: {error.message}".removeprefix(": ")


def mixed_folds(datasets: Iterable[Path], edits: Iterable[Path], plans: str) -> Iterator[str]:
    """The data sets that would be trained with half of their patients and with all: plans share their folds.

    nnU-Net plans a data set only where its folds are as it, or a converter, wrote them.
    """
    halves = any(path.name == "half_of_the_patients.py" for path in edits)
    for folder in datasets:
        halved = (folder / "splits_all.json").is_file()
        trained = any(folder.glob("*.complete"))
        if (halved != halves and trained) or (halved and not (folder / f"{plans}.json").is_file()):
            share = "half" if halved else "all"
            yield f"edit_plans: {folder} has {share} of its patients; take another folder: --config work=FOLDER"


def unknown_trainers(names: Iterable[str]) -> Iterator[str]:
    """The trainers that nnU-Net would not find. `nnUNet_extTrainer` must be set; importing nnU-Net takes seconds."""
    from nnunetv2_selfreg.trainer import find_trainer

    for name in dict.fromkeys(names):
        try:
            reason = "" if find_trainer(name) else "; see nnU-Net's folder training/nnUNetTrainer, or nnUNet_extTrainer"
        except Exception as error:  # an import in one of nnU-Net's trainer modules, or in somebody's
            reason = f": {str(error) or type(error).__name__}; see nnUNetv2_selfreg doctor"
        if reason:
            yield f"trainers: nnU-Net finds no {name}{reason}"
