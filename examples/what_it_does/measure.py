"""Measures what the terms do to a model, at each of its checkpoints: measure.py MODEL DATA --output results.json.

MODEL is the folder that `nnUNetTrainerSelfRegKept` left, DATA the raw data set. Patches are every fourth of four cases
that the fold was not trained on, each a batch of its own, in evaluation mode. Norms are L2 norms, summed over the
patches before one is divided by another.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import torch
from torch import Tensor

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.inspect.cases import find_cases, prepare
from nnunetv2_selfreg.inspect.model import InspectedModel
from nnunetv2_selfreg.inspect.pull import SegmentationLoss
from nnunetv2_selfreg.losses import pooled
from nnunetv2_selfreg.terms import IFD, SCR, Step

EPOCHS, CASES, EVERY, DRAWS = 4, 4, 4, 10
WEIGHT = 0.015  # of both terms, the default
SCALES = (1, 0.8, 0.6, 0.4, 0.3, 0.2, 0.15, 0.1)


def variances(student: Tensor, teacher: Tensor) -> dict[str, float]:
    """The parts of SCR's expectation, and what IFD would be if its pairs were random. `(B, C, *spatial)` each."""
    met = pooled(teacher, tuple(student.shape[2:]))
    of_student = student.var(1, correction=0).mean().item()
    channels = student.shape[1]
    return {
        "student variance": of_student,
        "squared difference of means": (student.mean(1) - met.mean(1)).square().mean().item(),
        "teacher variance": met.var(1, correction=0).mean().item(),
        "IFD of random pairs": 2 * of_student * channels / (channels - 1),
    }


def gradient(losses, student: Tensor) -> Tensor:
    """The gradient of the first student's loss with respect to its map."""
    found: Tensor = losses.gradients[0](torch.zeros_like(student), student, losses.values.new_tensor(1.0), True)
    return found


def of_patch(model: InspectedModel, maps: dict[str, Tensor], generator: torch.Generator) -> dict[str, dict[str, float]]:
    """What is measured of one patch, by student."""
    (teacher,) = (maps[name] for name in model.chosen.teacher)
    found = {}
    for name in model.students:
        student = maps[name]
        expected = SCR.compute([student], Step(teacher, scr_channels="expected"))
        drawn = [SCR.compute([student], Step(teacher, generator)) for _ in range(DRAWS)]
        distilled = IFD.compute([student], Step(teacher))
        mean, each = gradient(expected, student), [gradient(losses, student) for losses in drawn]
        cosines = [torch.cosine_similarity(one.flatten(), mean.flatten(), dim=0).item() for one in each]
        found[name] = variances(student, teacher) | {
            "SCR drawn": sum(losses.values.item() for losses in drawn) / DRAWS,
            "SCR expected": expected.values.item(),
            "IFD": distilled.values.item(),
            "SCR drawn, gradient": sum(one.norm().item() for one in each) / DRAWS,
            "SCR expected, gradient": mean.norm().item(),
            "IFD, gradient": gradient(distilled, student).norm().item(),
            "cosine of one draw": sum(cosines) / DRAWS,
        }
    return found


def at_checkpoint(model: InspectedModel, cases) -> dict:
    """The means over all patches, by student; gradients in percent of that of nnU-Net's loss, with their weights."""
    own, generator = SegmentationLoss(model), torch.Generator().manual_seed(0)
    sums: dict[str, dict[str, float]] = {name: defaultdict(float) for name in model.students}
    size, patches = 0.0, 0
    for case in cases:
        for slicer in case.slicers[::EVERY]:
            image = case.image[slicer][None]
            loss, norms = own.pulls(image, case.labels[slicer[1:]])
            size, patches = size + loss, patches + 1
            for name, values in of_patch(model, model.maps(image)[1], generator).items():
                for key, value in (values | {"nnU-Net, gradient": norms[name]}).items():
                    sums[name][key] += value
    means = {name: {key: value / patches for key, value in of_stage.items()} for name, of_stage in sums.items()}
    encoder, decoder = len(model.chosen.encoder), len(model.chosen.decoder)
    added = 0.0
    for key, term in (("SCR drawn", SCR), ("SCR expected", SCR), ("IFD", IFD)):
        for name, share in zip(model.students, term.student_weights(encoder, decoder), strict=True):
            part = WEIGHT * share * means[name].pop(f"{key}, gradient")
            means[name][f"{key}, % of the gradient"] = 100 * part / means[name]["nnU-Net, gradient"]
            added += WEIGHT * share * means[name][key] if key != "SCR expected" else 0
    return {"size of nnU-Net's loss": size / patches, "% of the loss": 100 * added / (size / patches + added),
            "patches": patches, "stages": means}  # fmt: skip


@torch.no_grad()
def rescaled(model: InspectedModel, image: Tensor) -> list[dict[str, float]]:
    """The first student of the encoder scaled down, the convolutions that read it scaled up: the function stays.

    The model's network is that of nnU-Net's planner: convolution, norm with gain and bias, LeakyReLU. In float64.
    """
    name = next(iter(model.chosen.encoder))
    number = int(name.split(".")[-1])
    network = model.predictor.network.double()
    norm = network.encoder.stages[number][0].convs[-1].norm
    stages = len(network.encoder.stages)
    # the next encoder stage, and the decoder stage that gets it as a skip connection, behind the upsampled channels
    skip = network.decoder.stages[stages - 2 - number].convs[0].conv.weight
    readers = [network.encoder.stages[number + 1][0].convs[0].conv.weight, skip[:, -norm.num_features :]]
    start = [parameter.clone() for parameter in (norm.weight, norm.bias, *readers)]
    found = []
    for scale in SCALES:
        for parameter, first in zip((norm.weight, norm.bias), start[:2], strict=True):
            parameter.copy_(first * scale)
        for parameter, first in zip(readers, start[2:], strict=True):
            parameter.copy_(first / scale)
        logits, maps = model.maps(image.double())
        if not found:
            reference = logits
        (teacher,) = (maps[each] for each in model.chosen.teacher)
        step = Step(teacher, scr_channels="expected")
        found.append({
            "scale": scale,
            "IFD": IFD.compute([maps[name]], step).values.item(),
            "SCR expected": SCR.compute([maps[name]], step).values.item(),
            "change of the logits": ((logits - reference).abs().max() / reference.abs().max()).item(),
        })  # fmt: skip
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--output", type=Path, default=Path("results.json"))
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    preprocessed = Path(parsed.data.parent.parent / "nnUNet_preprocessed" / parsed.data.name / "splits_final.json")
    unseen = json.loads(preprocessed.read_text())[0]["val"][:CASES]
    epochs, cases, rescaling = [], None, None
    for epoch in range(EPOCHS + 1):
        model = InspectedModel(parsed.model, "0", f"checkpoint_after_{epoch}.pth", "cpu")
        if cases is None:
            found = find_cases(parsed.data / "imagesTr", parsed.data / "labelsTr", ".nii.gz", model.channels)
            cases = [prepare(files, model.predictor) for files in found if files.name in unseen]
        epochs.append({"epoch": epoch} | at_checkpoint(model, cases))
        print(epoch, {name: round(of["IFD, % of the gradient"], 2) for name, of in epochs[-1]["stages"].items()})
        if epoch == EPOCHS:
            slicer = cases[0].slicers[len(cases[0].slicers) // 2]
            rescaling = rescaled(model, cases[0].image[slicer][None])
            dice = model.logging["ema_fg_dice"]
    versions = {"nnunetv2-selfreg": __version__, "torch": torch.__version__}
    content = {"versions": versions, "cases": unseen, "weight": WEIGHT, "draws": DRAWS, "moving pseudo Dice": dice,
               "epochs": epochs, "rescaled": rescaling}  # fmt: skip
    parsed.output.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
