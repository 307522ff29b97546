"""nnU-Net's loss plus the two SelfReg terms, and their running means."""

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.losses import draw_channels, internal_feature_distillation, semantic_consistency
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.stages import StageFeatures, StageTaps

TERMS = ("scr", "ifd")


class SelfRegCriterion(nn.Module):
    """The training loss: `loss + lambda_scr * SCR + lambda_ifd * IFD`.

    Outside training the taps are empty and the value is nnU-Net's own loss. A term of weight 0 is not computed.

    Args:
        loss: nnU-Net's own loss, deep supervision included.
        taps: The taps on the network that makes `output`.
        settings: The weights.
        device: Where the features lie; channels are drawn there, by a generator of the criterion's own.
        seed: Seeds that generator, once: every process of a multi-GPU training draws the same channels.
    """

    def __init__(
        self, loss: nn.Module, taps: StageTaps, settings: SelfRegSettings, device: torch.device, seed: int = 0
    ) -> None:
        super().__init__()
        self.loss = loss
        self.taps = taps
        self.settings = settings
        self.weights = {name: weight for name in TERMS if (weight := getattr(settings, f"lambda_{name}")) > 0}
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def forward(self, output: Tensor | list[Tensor], target: Tensor | list[Tensor]) -> Tensor:
        """nnU-Net's loss of `output` and `target`, plus the weighted terms of the features in the taps.

        Args:
            output: The network's output, as nnU-Net's loss takes it.
            target: The reference, as nnU-Net's loss takes it.

        Returns:
            The loss, a scalar.

        Raises:
            SelfRegError: A training step whose forward pass filled no tap.
        """
        loss: Tensor = self.loss(output, target)
        features = self.taps.take()
        if features is None:
            if loss.requires_grad:
                raise SelfRegError("SelfReg: no feature map reached the loss in a training step; train without SelfReg")
            return loss
        terms = self.terms(features)
        self._count({"loss": loss.abs(), **terms})
        for name, term in terms.items():
            loss = loss + self.weights[name] * term
        return loss

    def terms(self, features: StageFeatures) -> dict[str, Tensor]:
        """The terms whose weight is not 0, unweighted, as scalars named `scr` and `ifd`.

        SCR is the mean over all students; IFD is the mean over the encoder's plus the mean over the decoder's.
        """
        terms = {}
        if "scr" in self.weights:
            students = features.encoder + features.decoder
            terms["scr"] = torch.stack([self._consistency(student, features.final) for student in students]).mean()
        if "ifd" in self.weights:
            terms["ifd"] = torch.stack(
                [
                    torch.stack([internal_feature_distillation(student) for student in students]).mean()
                    for students in (features.encoder, features.decoder)
                    if students
                ]
            ).sum()
        return terms

    def take_means(self) -> dict[str, float]:
        """The means over the training steps since the last call: of the terms, and of the size of nnU-Net's loss.

        Returns:
            Unweighted means by name, the size under `loss`; empty when there was no training step.
        """
        means = {name: (total / self._steps).item() for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means

    def _consistency(self, student: Tensor, teacher: Tensor) -> Tensor:
        channels = draw_channels(student.shape[1], teacher.shape[1], self._generator, student.device)
        return semantic_consistency(student, teacher, *channels)

    def _count(self, values: dict[str, Tensor]) -> None:
        """Adds to the running sums on the device, so that a step never waits for the host."""
        for name, value in values.items():
            value = value.detach().float()
            self._sums[name] = self._sums[name] + value if name in self._sums else value
        self._steps += 1

    def extra_repr(self) -> str:
        return f"{self.settings}, {self.taps}"
