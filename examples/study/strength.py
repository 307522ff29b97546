"""Measures how hard each arm of screen.yaml pulls, beside the segmentation: strength.py STOCK --output strength.csv.

STOCK is the folder of stock's trainings, with its folds. Each fold gives ten training batches, once to a network with
nnU-Net's first weights ("start") and once to the one that stock's training ended with ("end"). The shares compare L2
norms, summed over batches and folds before one is divided by the other: of the gradient that the arm's terms add, with
their weights, and of that of nnU-Net's loss, both with respect to the encoder's weights (place "encoder") or to a
student's map (its name). nnU-Net's three folders are set as for the training, and nnUNet_n_proc_DA=0.
"""

import argparse
import csv
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from batchgenerators.utilities.file_and_folder_operations import load_json
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import Tensor

from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import choose_students
from nnunetv2_selfreg.terms import IFD, SCR, Step, Term

sys.path.insert(0, str(Path(__file__).parent / "trainers"))

from selfreg_forms import ATTENTION, CKA, DECORRELATION, PROBE

TIMES, FOLDS, BATCHES = ("start", "end"), 5, 10
SEGMENTATION = "segmentation"
ARMS: dict[str, tuple[Sequence[Term], str]] = {  # the terms, and what SCR compares
    "selfreg": ((SCR, IFD), "drawn"),
    "scr_expected": ((SCR,), "expected"),
    "attention": ((ATTENTION,), "drawn"),
    "cka": ((CKA,), "drawn"),
    "probe": ((PROBE,), "drawn"),
    "decorrelation": ((DECORRELATION,), "drawn"),
}


def pulls(arm: str, maps: Sequence[Tensor], teacher: Tensor, labels: Tensor, encoder: int) -> list[Tensor]:
    """The gradient that an arm's terms add at each student's map.

    Args:
        arm: One of `ARMS`.
        maps: The students' maps, the encoder's first, `(B, C, *spatial)` each.
        teacher: The teacher's map, `(B, C, *spatial)`.
        labels: The reference of the finest output, `(B, 1, *spatial)`.
        encoder: How many students are the encoder's.
    """
    terms, scr_channels = ARMS[arm]
    step = Step(teacher, torch.Generator().manual_seed(0), scr_channels=scr_channels, labels=labels)
    students = [feature.detach() for feature in maps]
    gradients = [torch.zeros_like(student) for student in students]
    for term in terms:
        losses = term.compute(students, step)
        shares = term.student_weights(encoder, len(students) - encoder)
        for number, (student, share) in enumerate(zip(students, shares, strict=True)):
            factor = losses.values.new_tensor(term.weight * share)
            gradients[number] = losses.gradients[number](gradients[number], student, factor, True)
    return gradients


def norms(trainer: nnUNetTrainer) -> dict[tuple[str, str], float]:
    """The norms of the gradients of nnU-Net's loss and of each arm's terms, by arm and place, summed over batches."""
    chosen = choose_students(trainer.network, SelfRegSettings())
    students, (teacher,) = [*chosen.encoder, *chosen.decoder], chosen.teacher
    features: dict[str, Tensor] = {}
    for name, module in (chosen.encoder | chosen.decoder | chosen.teacher).items():
        module.register_forward_hook(lambda module, inputs, output, name=name: features.update({name: output}))
    weights = list(trainer.network.encoder.parameters())
    found: dict[tuple[str, str], float] = defaultdict(float)

    def add(arm: str, at_maps: Sequence[Tensor], at_weights: Sequence[Tensor]) -> None:
        for name, gradient in zip(students, at_maps, strict=True):
            found[arm, name] += gradient.norm().item()
        found[arm, "encoder"] += torch.cat([gradient.flatten() for gradient in at_weights]).norm().item()

    for _ in range(BATCHES):
        batch = next(trainer.dataloader_train)
        loss = trainer.loss(trainer.network(batch["data"]), batch["target"])
        maps = [features[name] for name in students]
        at_maps = torch.autograd.grad(loss, maps, retain_graph=True)
        add(SEGMENTATION, at_maps, torch.autograd.grad(loss, weights, retain_graph=True))
        for arm in ARMS:
            at_maps = pulls(arm, maps, features[teacher], batch["target"][0], len(chosen.encoder))
            add(arm, at_maps, torch.autograd.grad(maps, weights, at_maps, retain_graph=True))
    return found


def begun(stock: Path, fold: int, time: str) -> nnUNetTrainer:
    """Stock's trainer with the network, loss and batches of a training's start or end."""
    torch.manual_seed(fold)
    np.random.seed(fold)
    plans, dataset = (load_json(stock / name) for name in ("plans.json", "dataset.json"))
    plans["continue_training"] = False  # as nnUNetv2_train
    trainer: Any = nnUNetTrainer(plans, "2d", fold, dataset, torch.device("cpu"))
    trainer.print_to_log_file = lambda *_, **__: None
    trainer.initialize()
    if time == "end":
        trainer.load_checkpoint(str(stock / f"fold_{fold}" / "checkpoint_final.pth"))
    trainer.dataloader_train, trainer.dataloader_val = trainer.get_dataloaders()
    return trainer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stock", type=Path)
    parser.add_argument("--output", type=Path, default=Path("strength.csv"))
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    sums: dict[tuple[str, str, str], float] = defaultdict(float)
    for fold in range(FOLDS):
        for time in TIMES:
            for (arm, place), norm in norms(begun(parsed.stock, fold, time)).items():
                sums[arm, time, place] += norm
    with open(parsed.output, "w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["arm", "time", "place", "percent"])
        for (arm, time, place), norm in sums.items():
            if arm != SEGMENTATION:
                writer.writerow([arm, time, place, f"{100 * norm / sums[SEGMENTATION, time, place]:.3g}"])


if __name__ == "__main__":
    main()
