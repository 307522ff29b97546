"""`nnUNetv2_selfreg demo`: makes the phantom data set and takes it through nnU-Net's own commands with SelfReg."""

import argparse
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.commands.phantom import DATASET, LABELS, TRAINING_CASES, UNSEEN_CASES, case_name, write_dataset
from nnunetv2_selfreg.commands.steps import MADE_BY, DemoPart, Marker, run_command, run_parts
from nnunetv2_selfreg.files import read_json

NUMBER = DATASET.removeprefix("Dataset").split("_")[0]
PLANS = "nnUNetPlansDemo"
EPOCHS = 5
TRAINER = f"nnUNetTrainerSelfReg_{EPOCHS}epochs"
# In GB: so little that nnU-Net plans what two CPU cores can train in minutes, batches of two patches of 56 x 56.
MEMORY_TARGET = "0.016"
DICE_EXPECTED = 0.80
FOREGROUND = {name: label for name, label in LABELS.items() if label}


class Demo:
    """The demo's folders and parts.

    Args:
        folder: What everything goes under.
        seed: The data set's seed.
        device: `cpu`, `cuda` or `mps`.
    """

    def __init__(self, folder: Path, seed: int, device: str) -> None:
        self._seed, self._device, self._logs = seed, device, folder / "logs"
        self._raw, self._preprocessed, self._results = (
            folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        )
        self.dataset = self._raw / DATASET
        self.model = self._results / DATASET / f"{TRAINER}__{PLANS}__2d"
        self._checkpoint = self.model / "fold_0" / "checkpoint_final.pth"
        self._predictions = folder / "predictions"
        self._summary = self._predictions / "summary.json"
        self.overlay = folder / "overlay.png"
        self._processes = str(min(4, os.cpu_count() or 1))
        self.settings = {
            "nnUNet_raw": str(self._raw),
            "nnUNet_preprocessed": str(self._preprocessed),
            "nnUNet_results": str(self._results),
            "nnUNet_def_n_proc": self._processes,
            "nnUNet_compile": "f",  # compiling takes longer than it saves in so short a training
            "nnUNet_wandb_enabled": "0",  # whoever logs trainings online has no use for this one there
        }

    def parts(self) -> list[DemoPart]:
        """The parts of the demo in their order."""
        count = f"{len(TRAINING_CASES)} training and {len(UNSEEN_CASES)} unseen cases"
        planning = "Planning and preprocessing: nnU-Net configures itself; -gpu_memory_target keeps it small"
        training = f"Training with SelfReg: {EPOCHS} epochs on the {self._device.upper()}, the longest part"
        predicted = self._predictions / f"{case_name(UNSEEN_CASES[-1])}.nii.gz"
        return [
            DemoPart(f"Drawing {count}", self.dataset / "dataset.json", self._draw),
            DemoPart(planning, self._preprocessed / DATASET / f"{PLANS}.json", self._preprocess),
            DemoPart(training, self._checkpoint, self._train),
            DemoPart("Predicting the unseen cases", predicted, self._predict),
            DemoPart("Comparing the predictions with the reference", self._summary, self._evaluate),
            DemoPart("Drawing a prediction", self.overlay, self._draw_overlay),
        ]

    def dice(self) -> dict[str, float]:
        """The evaluation's mean Dice of the unseen cases, by class, and `mean` of the classes."""
        summary = read_json(self._summary)
        dice = {name: float(summary["mean"][str(label)]["Dice"]) for name, label in FOREGROUND.items()}
        return {**dice, "mean": float(summary["foreground_mean"]["Dice"])}

    def _run(self, log: str, *command: str, **extra: str) -> None:
        run_command(command, self.settings, self._logs / f"{log}.log", **extra)

    def _draw(self) -> None:
        print(f"  {write_dataset(self._raw, self._seed)}")

    def _preprocess(self) -> None:
        small = ("-gpu_memory_target", MEMORY_TARGET, "-overwrite_plans_name", PLANS)
        count = ("-np", self._processes, "-npfp", self._processes)
        command = ("nnUNetv2_plan_and_preprocess", "-d", NUMBER, "-c", "2d", *small, *count)
        # the planner takes this variable of the training's for its number of threads, and fails with 0
        extra = {"nnUNet_n_proc_DA": self._processes} if os.environ.get("nnUNet_n_proc_DA") == "0" else {}
        self._run("02_preprocessing", *command, "--verify_dataset_integrity", **extra)

    def _train(self) -> None:
        from nnunetv2_selfreg.model_folder import load_checkpoint

        command = ("nnUNetv2_train", NUMBER, "2d", "0", "-p", PLANS, "-tr", TRAINER, "-device", self._device)
        # without a GPU, augmenting in processes of their own only takes the CPU from the network
        extra = {} if self._device == "cuda" else {"nnUNet_n_proc_DA": "0"}
        self._run("03_training", *command, **extra)
        for line in epoch_lines(load_checkpoint(self._checkpoint)["logging"]):
            print(f"  {line}")

    def _predict(self) -> None:
        places = ("-i", str(self.dataset / "imagesTs"), "-o", str(self._predictions))
        model = ("-d", NUMBER, "-c", "2d", "-f", "0", "-p", PLANS, "-tr", TRAINER, "-device", self._device)
        self._run("04_prediction", "nnUNetv2_predict", *places, *model, "-npp", "1", "-nps", "1")

    def _evaluate(self) -> None:
        folders = (str(self.dataset / "labelsTs"), str(self._predictions))
        files = ("-djfile", str(self._predictions / "dataset.json"), "-pfile", str(self._predictions / "plans.json"))
        self._run("05_evaluation", "nnUNetv2_evaluate_folder", *folders, *files)

    def _draw_overlay(self) -> None:
        from nnunetv2_selfreg.commands.overlay import write_overlay

        name = case_name(UNSEEN_CASES[0])
        image = self.dataset / "imagesTs" / f"{name}_0000.nii.gz"
        reference = self.dataset / "labelsTs" / f"{name}.nii.gz"
        write_overlay(image, reference, self._predictions / f"{name}.nii.gz", self.overlay)


def epoch_lines(logging: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """One line per epoch of what nnU-Net logged in a checkpoint.

    Args:
        logging: A list by name, a value per epoch.
    """
    names = ("selfreg_share", "mean_fg_dice", "epoch_start_timestamps", "epoch_end_timestamps")
    for epoch, (share, dice, begin, end) in enumerate(zip(*(logging[name] for name in names), strict=True), 1):
        yield f"epoch {epoch} of {EPOCHS}: SelfReg {share:.1%} of the loss, pseudo Dice {dice:.2f}, {end - begin:.0f} s"


def report(demo: Demo, dice: Mapping[str, float]) -> str:
    """The lines that the demo ends with: Dice by class, the picture and what to type next."""
    images = shlex.join(["--images", str(demo.dataset / "imagesTs"), "--labels", str(demo.dataset / "labelsTs")])
    return "\n".join(
        [
            f"\nMean Dice of the {len(UNSEEN_CASES)} unseen cases",
            *(f"  {name:<10}  {value:.2f}" for name, value in dice.items()),
            f"\nOverlay of a prediction: {demo.overlay}",
            "Phantoms are easy: these numbers show that your installation works, not what SelfReg gains.",
            "Next, look inside the model:",
            f"  nnUNetv2_selfreg inspect {shlex.quote(str(demo.model))} {images} -o selfreg_report",
            "Then train on your own data, with SelfReg and without, and compare:",
            "  nnUNetv2_train YOUR_DATASET 2d 0 -tr nnUNetTrainerSelfReg",
            "  nnUNetv2_train YOUR_DATASET 2d 0 -tr nnUNetTrainer",
            "  nnUNetv2_selfreg compare MODEL_WITHOUT MODEL_WITH -o COMPARISON",
        ]
    )


def main(arguments: Sequence[str]) -> int:
    """Runs the demo.

    Args:
        arguments: The command line after `nnUNetv2_selfreg demo`.

    Returns:
        0, or 1 when the mean Dice is lower than any working installation reaches.

    Raises:
        SelfRegError: The folder or the device cannot be used, or one of nnU-Net's commands failed.
    """
    parser = argparse.ArgumentParser(
        prog=MADE_BY,
        description="Makes a small synthetic cardiac data set, trains nnU-Net with SelfReg on it and measures the "
        "result on unseen cases: about two minutes on two CPU cores. Everything goes under one folder, and a second "
        "run in the same folder goes on with the first part that has not finished.",
    )
    parser.add_argument("--folder", type=Path, default=Path("selfreg_demo"), help="default: ./selfreg_demo")
    parser.add_argument("--seed", type=int, default=0, help="of the synthetic cases; default: 0")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: cuda when there is one, else cpu")
    parsed = parser.parse_args(arguments)
    if parsed.seed < 0:
        parser.error(f"argument --seed: must be at least 0, got {parsed.seed}")
    device = _usable_device(parsed.device)
    folder = parsed.folder.expanduser().resolve()
    marker = Marker.claim(folder, parsed.seed)
    demo = Demo(folder, parsed.seed, device)
    print(f"Everything goes under {folder}. What follows a $ can be typed in a shell and does the same.\n")
    print("\n".join(f"$ export {name}={shlex.quote(value)}" for name, value in demo.settings.items()))
    run_parts(demo.parts(), marker)
    dice = demo.dice()
    print(report(demo, dice))
    if not dice["mean"] >= DICE_EXPECTED:
        print(f"The mean is below {DICE_EXPECTED}, which a working installation reaches: try nnUNetv2_selfreg doctor.")
        return 1
    return 0


def _usable_device(wanted: str | None) -> str:
    import torch

    from nnunetv2_selfreg.model_folder import check_device

    device = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    check_device(device)
    return device
