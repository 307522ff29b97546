"""`nnUNetv2_selfreg plans --list-modules`: the modules of a plans file's network that can be students or teacher."""

from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from nnunetv2_selfreg.compat import build_network
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.layouts import Trial
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import choose_students, read_layouts


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
    heads = manager.get_label_manager(dataset).num_segmentation_heads
    try:
        network = build_network(trainer, manager, configuration, channels, heads, False)
    except Exception as error:  # whatever the network's author raises
        raise SelfRegError(
            f"{trainer.__name__} cannot build the network of {name}: {(str(error) or type(error).__name__)}"
        ) from error
    images = torch.zeros(1, channels, *configuration.patch_size)
    trial = Trial(network, images)
    roles: dict[nn.Module, str] = {}
    try:
        stages = choose_students(network, settings)
        read_layouts(network, stages.encoder | stages.decoder | stages.teacher, images)
        for role, modules in zip(("encoder student", "decoder student", "teacher"), stages, strict=True):
            roles |= dict.fromkeys(modules.values(), role)
        chosen = f"SelfReg: {settings}; {stages}"
    except SelfRegError as error:
        chosen = str(error)
    rows = []
    for module_name, module in network.named_modules():
        try:
            layout = trial.layout(module_name, module)
        except SelfRegError:
            continue
        value = trial.outputs[module][0].value
        assert value is not None  # it has a layout
        feature = layout.to_map(value)
        grid, kept = " x ".join(map(str, feature.shape[2:])), "" if layout.axis == 1 else "last"
        rows.append(
            (module_name or "(network)", type(module).__name__, feature.shape[1], grid, kept, roles.get(module))
        )
    table = pd.DataFrame(rows, columns=["module", "class", "channels", "grid", "channels are", "role"]).fillna("")
    left_out = sum(1 for _ in network.modules()) - len(rows)
    return "\n".join(
        [
            f"{type(network).__name__} for an image of {' x '.join(map(str, configuration.patch_size))}",
            table.to_string(index=False, justify="left"),
            f"{left_out} more modules give no map: not called, called several times, something else than a map, or",
            "changed by a later layer",
            chosen,
        ]
    )
