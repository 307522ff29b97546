"""How hard nnU-Net's own loss pulls at a model's feature maps: what the pull of SelfReg's terms is measured against."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from math import nan
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from nnunetv2_selfreg.compat import not_compiled
from nnunetv2_selfreg.inspect.model import InspectedModel
from nnunetv2_selfreg.inspect.values import STUDENTS

GRADIENT, LOSS = "_gradient_percent", "_loss_percent"  # behind a term's measure


class SegmentationLoss:
    """nnU-Net's loss as the model's trainer builds it, with deep supervision where the trainer has it.

    Args:
        model: The model; its network gives the outputs of deep supervision while the loss is computed, else not.

    Attributes:
        reason: Why this trainer's loss cannot be had outside a training; empty if it can.
    """

    def __init__(self, model: InspectedModel) -> None:
        self._model = model
        self.reason = ""
        try:
            with redirect_stdout(StringIO()):
                self._trainer = _idle_trainer(model)
                self._loss = _stock_loss(self._trainer)
                self._scales = self._trainer._get_deep_supervision_scales()
                labels = self._trainer.label_manager
                self._transform = self._trainer.get_validation_transforms(
                    self._scales,
                    regions=labels.foreground_regions if labels.has_regions else None,
                    ignore_label=labels.ignore_label,
                )
        except Exception as error:  # a trainer that somebody wrote may need whatever a training has
            self.reason = f"{type(error).__name__}: {error}"

    def pulls(self, image: Tensor, labels: Tensor) -> tuple[float, dict[str, float]] | None:
        """The loss of one patch and its gradient on each student's map.

        Args:
            image: The patch, `(1, channels, *spatial)`.
            labels: Its reference, `(*spatial)`.

        Returns:
            The size of the loss, and the L2 norm of its gradient with respect to each student's map, by name;
            None where the loss fails, and `reason` says why.
        """
        features: dict[str, Tensor] = {}

        def keep(name: str, output: Tensor) -> Tensor:
            layout = self._model.layouts[name]
            features[name] = layout.to_map(output)
            return layout.from_map(features[name])

        handles = [
            module.register_forward_hook(lambda module, inputs, output, name=name: keep(name, output))
            for name, module in self._model.students.items()
        ]
        try:
            found = self._transform(image=image[0].cpu(), segmentation=labels[None].cpu())["segmentation"]
            with torch.enable_grad(), not_compiled(), self._deep_supervision():
                output = self._model.predictor.network(image.detach().requires_grad_())
                target = [part[None].to(image.device) for part in found] if self._scales else found[None].to(image)
                loss = self._loss(output, target)
                gradients = torch.autograd.grad(loss, list(features.values()), allow_unused=True)
        except Exception as error:  # such as a loss that takes more than output and target
            self.reason = f"{type(error).__name__}: {error}"
            return None
        finally:
            for handle in handles:
                handle.remove()
        norms = [0.0 if gradient is None else float(gradient.double().norm()) for gradient in gradients]
        return abs(loss.item()), dict(zip(features, norms, strict=True))

    @contextmanager
    def _deep_supervision(self) -> Iterator[None]:
        if self._scales:
            self._trainer.set_deep_supervision_enabled(True)
        try:
            yield
        finally:
            if self._scales:
                self._trainer.set_deep_supervision_enabled(False)


def _idle_trainer(model: InspectedModel) -> Any:
    """The model's trainer without what nnU-Net's `__init__` leaves behind: a folder in nnUNet_results, a log, wandb."""
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    predictor, folder = model.predictor, model.folder

    def begin(trainer: Any, *_: Any, **__: Any) -> None:
        trainer.is_ddp, trainer.is_cascaded, trainer.local_rank = False, False, 0
        trainer.enable_deep_supervision, trainer.device = True, predictor.device
        trainer.plans_manager, trainer.label_manager = predictor.plans_manager, predictor.label_manager
        trainer.configuration_manager = predictor.configuration_manager
        trainer.configuration_name, trainer.dataset_json = folder.configuration, folder.dataset_json
        trainer.network, trainer.num_epochs, trainer.current_epoch = predictor.network, 1000, 0
        trainer.print_to_log_file = lambda *_, **__: None

    with patch.object(nnUNetTrainer, "__init__", begin):
        return folder.trainer_class(folder.plans, folder.configuration, 0, folder.dataset_json, predictor.device)


def _stock_loss(trainer: Any) -> Any:
    """The loss to which SelfReg adds its terms."""
    from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg

    is_selfreg = isinstance(trainer, nnUNetTrainerSelfReg)
    return super(nnUNetTrainerSelfReg, trainer)._build_loss() if is_selfreg else trainer._build_loss()


def pull_shares(means: Mapping[tuple[str, str, str], float]) -> dict[tuple[str, str, str], float]:
    """What the terms add, in percent of what nnU-Net's loss is there.

    Args:
        means: Over a case's patches, by measure, stage and class: of the size of nnU-Net's loss, of all students
            together; of the norm of its gradient at each student; and of what each term adds to both at each student.

    Returns:
        By term and student, also in percent: the gradient that the term adds over that of nnU-Net's loss; and its part
        of the training loss, which is the mean size of nnU-Net's loss and all that is added, also of all students.
        Nothing without nnU-Net's loss.
    """
    if (LOSS, STUDENTS, "") not in means:
        return {}
    added = {key: value for key, value in means.items() if key[0] not in (LOSS, GRADIENT)}
    losses = {key: value for key, value in added.items() if key[0].endswith(LOSS)}
    whole = means[LOSS, STUDENTS, ""] + sum(losses.values())
    found = {key: 100 * value / whole for key, value in losses.items()}
    for measure in dict.fromkeys(measure for measure, _, _ in losses):
        found[measure, STUDENTS, ""] = sum(value for key, value in found.items() if key[0] == measure)
    for (measure, stage, _), value in added.items():
        if measure.endswith(GRADIENT):
            own = means[GRADIENT, stage, ""]
            found[measure, stage, ""] = 100 * value / own if own else nan
    return found
