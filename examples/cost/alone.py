"""The terms alone, without a network: maps that are the same in every step."""

import torch
from cases import Case

from nnunetv2_selfreg.anchors import Anchor
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageFeatures


class Maps:
    """A U-Net's feature maps, to be read in place of taps.

    Attributes:
        encoder: The encoder's students, leaves that want a gradient.
        decoder: The decoder's.
        teacher: The teacher.
        gradients: What arrives at each student in the backward pass, the encoder's first.
    """

    def __init__(self, shapes: list[tuple[int, ...]], device: torch.device, dtype: torch.dtype = torch.float32) -> None:
        """Random maps; the shapes are those of the encoder's stages, the first at full resolution."""
        generator = torch.Generator().manual_seed(0)

        def random(shape):
            return torch.randn(shape, generator=generator).to(device, dtype)

        self.encoder = [random(shape).requires_grad_() for shape in shapes[1:]]
        self.decoder = [random(shape).requires_grad_() for shape in shapes[-2:0:-1]]
        self.teacher = random(shapes[0])
        self.gradients = [torch.zeros_like(student) for student in self.students]

    @property
    def students(self) -> list[torch.Tensor]:
        return self.encoder + self.decoder

    def take(self) -> StageFeatures:
        """As `StageTaps.take` after a forward pass."""
        anchors = [Anchor() for _ in self.students]
        pairs = [anchor.lay(student) for anchor, student in zip(anchors, self.students, strict=True)]
        self.laid, links = map(list, zip(*pairs, strict=True))
        encoder, decoder = ([student.detach() for student in part] for part in (self.encoder, self.decoder))
        return StageFeatures(encoder, decoder, self.teacher, anchors, links)

    def clear(self) -> None:
        """Drops the gradients."""
        for student in self.students:
            student.grad = None

    def floor(self) -> int:
        """Bytes that any implementation moves: each student read twice and its gradient written, the teacher read."""
        students = sum(student.numel() * student.element_size() for student in self.students)
        return 3 * students + self.teacher.numel() * self.teacher.element_size()


def maps_of(case: Case, device: torch.device, dtype: torch.dtype, batch: int | None = None) -> Maps:
    """Maps of a case's size, in a batch of its own if that is given."""
    shapes, grid = [], case.patch
    for channels, stride in zip(case.features, ((1,) * len(grid), *case.strides), strict=True):
        grid = tuple(size // step for size, step in zip(grid, stride, strict=True))
        shapes.append((batch or case.batch, channels, *grid))
    return Maps(shapes, device, dtype)


class NoLoss(torch.nn.Module):
    """nnU-Net's loss left out, to measure the terms alone; 0 on the maps' device."""

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.nothing = torch.zeros((), device=device)

    def forward(self, output, target):
        return self.nothing


def step_of(maps: Maps, settings: SelfRegSettings | None = None, compiled: bool = False):
    """A function that computes the terms of the maps, and gives the students their gradients."""
    settings, device = settings or SelfRegSettings(), maps.teacher.device
    criterion = SelfRegCriterion(NoLoss(device), maps, settings, device, compiled=compiled)

    def step() -> torch.Tensor:
        maps.clear()
        loss = criterion(None, None)
        # in a network the maps have a gradient, which arrives at the anchors
        torch.autograd.backward([loss, *maps.laid], [None, *maps.gradients])
        return loss.detach()

    return step
