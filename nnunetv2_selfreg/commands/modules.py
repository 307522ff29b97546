"""`nnUNetv2_selfreg plans --list-modules`: the modules of a plans file's network that can be students or teacher."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from nnunetv2_selfreg.errors import SelfRegError, reason
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.layouts import Trial
from nnunetv2_selfreg.model_folder import planned_network
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import ChosenStages, StageTaps


def module_table(folder: Path, plans: Mapping[str, Any], name: str, trainer: Any, settings: SelfRegSettings) -> str:
    """Builds the network of a configuration, runs it once on an empty patch and tells what its modules give.

    Args:
        folder: The preprocessed folder of the data set, with its `dataset.json`.
        plans: nnU-Net's plans.
        name: The configuration's name.
        trainer: The trainer's class, which builds the network.
        settings: The settings that choose students and teacher.

    Returns:
        A table, and what the settings choose or why they cannot.

    Raises:
        SelfRegError: The network cannot be built, or cannot take the plans' patch.
    """
    with redirect_stdout(StringIO()):
        from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
        from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    dataset = read_json(folder / "dataset.json", "dataset.json of nnU-Net")
    manager = PlansManager(dict(plans))
    configuration = manager.get_configuration(name)
    channels = determine_num_input_channels(manager, configuration, dataset)
    try:
        network = planned_network(trainer, manager, name, dataset)
        images = torch.zeros(1, channels, *configuration.patch_size)
    except Exception as error:  # whatever the network's author raises, or a key that the plans lack
        raise SelfRegError(
            f"{trainer.__name__} cannot build the network of {name}: {reason(error)}; see nnUNetv2_selfreg doctor"
        ) from error
    trial = Trial(network, images)
    roles: dict[nn.Module, str] = {}
    try:
        stages = StageTaps(network, settings, images).stages
        chosen = f"{settings}; {stages}"
        titles = zip(ChosenStages._fields, stages, strict=True)
        roles = {module: title for title, modules in titles for module in modules.values()}
    except SelfRegError as error:
        chosen = str(error)
    table = _table(network, trial, roles)
    left_out = len(list(network.modules())) - 1 - len(table)
    return (
        f"{type(network).__name__} for an image of {' x '.join(map(str, configuration.patch_size))}\n"
        f"{table.to_string(index=False)}\n"
        f"{left_out} more modules cannot be tapped: not called, called several times, without a map that can be read, "
        f"or written into by a later layer\n{chosen}"
    )


def _table(network: nn.Module, trial: Trial, roles: Mapping[nn.Module, str]) -> pd.DataFrame:
    """The modules that give a map, and which students or teacher they are."""
    rows = []
    for name, module in list(network.named_modules())[1:]:  # without the network itself, which has no name
        try:
            layout = trial.layout(name, module)
        except SelfRegError:
            continue
        (output,) = trial.outputs[module]
        assert output.value is not None  # it has a layout
        feature = layout.to_map(output.value)
        order = "tokens" if layout.grid else "channels first" if layout.axis == 1 else "channels last"
        grid = " x ".join(map(str, feature.shape[2:]))
        rows.append((name, type(module).__name__, feature.shape[1], grid, order, roles.get(module, "")))
    return pd.DataFrame(rows, columns=["module", "class", "channels", "grid", "order", "chosen as"])
