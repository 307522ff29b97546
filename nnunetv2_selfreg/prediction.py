"""nnU-Net's predictor of a trained model, without running code from its checkpoint."""

import inspect
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from nnunetv2_selfreg.checkpoints import load_checkpoint
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import read_json
from nnunetv2_selfreg.trainer import find_trainer


def load_predictor(model: Path, checkpoint: Path, device: str = "cpu") -> nnUNetPredictor:
    """Builds the network as the checkpoint's trainer does and gives it the checkpoint's weights.

    nnU-Net's own `initialize_from_trained_model_folder` would unpickle whatever the checkpoint holds.

    Args:
        model: The model folder, with `plans.json` and `dataset.json`.
        checkpoint: One of its checkpoints.
        device: Where to predict.

    Raises:
        SelfRegError: A file cannot be read, the checkpoint does not fit the plans, or this nnU-Net does not know the
            trainer.
    """
    content = load_checkpoint(checkpoint)
    plans, dataset = PlansManager(read_json(model / "plans.json")), read_json(model / "dataset.json")
    trainer = find_trainer(content["trainer_name"])
    if trainer is None:
        raise SelfRegError(
            f"{checkpoint}: this nnU-Net has no trainer {content['trainer_name']}; install what brings it"
        )
    configuration = plans.get_configuration(content["init_args"]["configuration"])
    if "plans_manager" in inspect.signature(trainer.build_network_architecture).parameters:
        architecture: tuple[Any, ...] = (plans, configuration)
    else:  # until nnU-Net 2.6
        architecture = (
            configuration.network_arch_class_name,
            configuration.network_arch_init_kwargs,
            configuration.network_arch_init_kwargs_req_import,
        )
    network = trainer.build_network_architecture(
        *architecture,
        determine_num_input_channels(plans, configuration, dataset),
        plans.get_label_manager(dataset).num_segmentation_heads,
        enable_deep_supervision=False,
    ).to(device)
    try:
        network.load_state_dict(content["network_weights"])
    except RuntimeError as error:
        reason = shorten(str(error).splitlines()[1], 200, placeholder=" ...")
        raise SelfRegError(f"{checkpoint} does not fit {model / 'plans.json'}: {reason}") from None
    with redirect_stdout(StringIO()):  # a line about what only CUDA devices can do
        predictor = nnUNetPredictor(device=torch.device(device), allow_tqdm=False)
    predictor.manual_initialization(
        network,
        plans,
        configuration,
        [content["network_weights"]],
        dataset,
        content["trainer_name"],
        content.get("inference_allowed_mirroring_axes"),
    )
    return predictor
