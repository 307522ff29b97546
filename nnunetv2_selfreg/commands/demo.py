"""`nnUNetv2_selfreg demo`: makes the phantom data set and takes it through nnU-Net's own commands with SelfReg."""

import argparse
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nnunetv2_selfreg.commands.phantom import DATASET, LABELS, TRAINING_CASES, UNSEEN_CASES, case_name, write_dataset
from nnunetv2_selfreg.commands.steps import MADE_BY, Commands, Marker, Step, duration, run_steps, say
from nnunetv2_selfreg.errors import SelfRegError
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
    """The demo's folders and steps.

    Args:
        folder: What everything goes under.
        seed: The data set's seed.
        device: `cpu`, `cuda` or `mps`.
    """

    def __init__(self, folder: Path, seed: int, device: str) -> None:
        self._seed, self._device = seed, device
        self._raw, self._preprocessed, self._results = (
            folder / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")
        )
        self._dataset = self._raw / DATASET
        self._plans = self._preprocessed / DATASET / f"{PLANS}.json"
        self._fold = self._results / DATASET / f"{TRAINER}__{PLANS}__2d" / "fold_0"
        self._predictions = folder / "predictions"
        self._summary = self._predictions / "summary.json"
        self.overlay = folder / "overlay.png"
        self._processes = str(min(4, os.cpu_count() or 1))
        self.commands = Commands(
            {
                "nnUNet_raw": str(self._raw),
                "nnUNet_preprocessed": str(self._preprocessed),
                "nnUNet_results": str(self._results),
                "nnUNet_def_n_proc": self._processes,
                # Compiling takes longer than it saves in so short a training.
                "nnUNet_compile": "f",
                # Whoever logs their trainings online has no use for this one there.
                **({"nnUNet_wandb_enabled": "0"} if "nnUNet_wandb_enabled" in os.environ else {}),
            },
            folder / "logs",
        )

    def steps(self) -> list[Step]:
        """The parts of the demo in their order."""
        count = f"{len(TRAINING_CASES)} training and {len(UNSEEN_CASES)} unseen cases"
        planning = "Planning and preprocessing: nnU-Net configures itself; -gpu_memory_target keeps it small"
        training = f"Training with SelfReg: {EPOCHS} epochs on the {self._device.upper()}"
        predicted = [self._predictions / f"{case_name(number)}.nii.gz" for number in UNSEEN_CASES]
        return [
            Step("data", f"Drawing {count}", [self._dataset / "dataset.json"], self._draw),
            Step("preprocessing", planning, [self._plans], self._preprocess),
            Step("training", training, [self._fold / "checkpoint_final.pth"], self._train),
            Step("prediction", "Predicting the unseen cases", predicted, self._predict),
            Step("evaluation", "Comparing the predictions with the reference", [self._summary], self._evaluate),
            Step("overlay", "Drawing a prediction", [self.overlay], self._draw_overlay),
        ]

    def dice(self) -> dict[str, float]:
        """The evaluation's mean Dice of the unseen cases, by class, and `mean` of the classes."""
        summary = read_json(self._summary)
        dice = {name: float(summary["mean"][str(label)]["Dice"]) for name, label in FOREGROUND.items()}
        return {**dice, "mean": float(summary["foreground_mean"]["Dice"])}

    def _draw(self) -> None:
        say(f"  {write_dataset(self._raw, self._seed)}")

    def _preprocess(self) -> None:
        self._preprocessed.mkdir(exist_ok=True)
        count = ["-np", self._processes, "-npfp", self._processes]
        small = ["-gpu_memory_target", MEMORY_TARGET, "-overwrite_plans_name", PLANS]
        command = ["nnUNetv2_plan_and_preprocess", "-d", NUMBER, "-c", "2d", *small, *count]
        self.commands.run("02_preprocessing", [*command, "--verify_dataset_integrity"])

    def _train(self) -> None:
        from nnunetv2_selfreg.model_folder import load_checkpoint

        self._results.mkdir(exist_ok=True)
        command = ["nnUNetv2_train", NUMBER, "2d", "0", "-p", PLANS, "-tr", TRAINER, "-device", self._device]
        if self._can_continue():
            command.append("--c")
        # Without a GPU, augmenting in processes of their own only takes the CPU from the network.
        extra = {} if self._device == "cuda" else {"nnUNet_n_proc_DA": "0"}
        self.commands.run("03_training", command, **extra)
        for line in epoch_lines(load_checkpoint(self._fold / "checkpoint_final.pth")["logging"]):
            say(f"  {line}")
        validation = read_json(self._fold / "validation" / "summary.json")
        say(f"  mean Dice of the fold's validation cases: {validation['foreground_mean']['Dice']:.2f}")

    def _predict(self) -> None:
        places = ["-i", str(self._dataset / "imagesTs"), "-o", str(self._predictions)]
        model = ["-d", NUMBER, "-c", "2d", "-f", "0", "-p", PLANS, "-tr", TRAINER]
        command = ["nnUNetv2_predict", *places, *model, "-device", self._device, "-npp", "1", "-nps", "1"]
        self.commands.run("04_prediction", command)

    def _evaluate(self) -> None:
        compared = [str(self._dataset / "labelsTs"), str(self._predictions)]
        files = ["-djfile", str(self._predictions / "dataset.json"), "-pfile", str(self._predictions / "plans.json")]
        self.commands.run("05_evaluation", ["nnUNetv2_evaluate_folder", *compared, *files])

    def _draw_overlay(self) -> None:
        from nnunetv2_selfreg.commands.overlay import write_overlay

        name = case_name(UNSEEN_CASES[0])
        image = self._dataset / "imagesTs" / f"{name}_0000.nii.gz"
        reference = self._dataset / "labelsTs" / f"{name}.nii.gz"
        write_overlay(image, reference, self._predictions / f"{name}.nii.gz", self.overlay)

    def _can_continue(self) -> bool:
        """Whether nnU-Net's `--c` would find a whole checkpoint of the data set as it is now."""
        names = [f"checkpoint_{name}.pth" for name in ("final", "latest", "best")]  # nnU-Net's own order
        checkpoint = next((self._fold / name for name in names if (self._fold / name).is_file()), None)
        if checkpoint is None:
            return False
        # A checkpoint is a zip archive, whose directory is written last.
        return zipfile.is_zipfile(checkpoint) and checkpoint.stat().st_mtime > self._plans.stat().st_mtime


def epoch_lines(logging: Mapping[str, Sequence[Any]]) -> Iterator[str]:
    """One line per epoch of what nnU-Net logged in a checkpoint.

    Args:
        logging: A list by name, a value per epoch.
    """
    names = ("selfreg_share", "mean_fg_dice", "dice_per_class_or_region", "epoch_start_timestamps")
    columns = zip(*(logging[name] for name in (*names, "epoch_end_timestamps")), strict=True)
    for epoch, (share, mean, dice, begin, end) in enumerate(columns, 1):
        each = ", ".join(f"{name} {value:.2f}" for name, value in zip(FOREGROUND, dice, strict=True))
        text = f"SelfReg {share:.1%} of the loss, pseudo Dice {mean:.2f} ({each})"
        yield f"epoch {epoch} of {EPOCHS}: {text}, {end - begin:.0f} s"


def report(dice: Mapping[str, float], seconds: Mapping[str, float], run: set[str], overlay: Path) -> list[str]:
    """The lines that the demo ends with, tables aligned.

    Args:
        dice: Dice by class, and `mean`.
        seconds: How long each part took, by name.
        run: Which parts were run this time; the others are marked as earlier ones.
        overlay: The picture.
    """
    width = max(map(len, [*dice, *seconds]))
    lines = ["", f"Dice of the {len(UNSEEN_CASES)} unseen cases"]
    lines += [f"  {name:<{width}}  {value:10.2f}" for name, value in dice.items()]
    lines += ["", "Time"]
    for name, value in seconds.items():
        lines.append(f"  {name:<{width}}  {duration(value):>10}{'' if name in run else '  (an earlier run)'}")
    lines.append(f"  {'total':<{width}}  {duration(sum(seconds.values())):>10}")
    lines += [
        "",
        f"Overlay of a prediction: {overlay}",
        "Phantoms are easy: these numbers show that your installation works, not what SelfReg gains.",
        "Next, on your own data: nnUNetv2_train YOUR_DATASET 2d 0 -tr nnUNetTrainerSelfReg",
    ]
    return lines


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
        "result on unseen cases: about five minutes on two CPU cores. Everything goes under one folder, and a second "
        "run in the same folder continues the first.",
    )
    parser.add_argument("--folder", type=Path, default=Path("selfreg_demo"), help="default: ./selfreg_demo")
    parser.add_argument("--seed", type=_seed, default=0, help="of the synthetic cases; default: 0")
    parser.add_argument("--device", choices=("cpu", "cuda", "mps"), help="default: cuda when there is one, else cpu")
    parsed = parser.parse_args(arguments)

    device = _usable_device(parsed.device)
    folder = parsed.folder.expanduser().resolve()
    marker = Marker.claim(folder, parsed.seed)
    demo = Demo(folder, parsed.seed, device)
    say(f"Everything goes under {folder}. What follows a $ can be typed in a shell and does the same.\n")
    demo.commands.show_settings()
    run = run_steps(demo.steps(), marker)
    dice = demo.dice()
    say("\n".join(report(dice, marker.seconds, run, demo.overlay)))
    if not dice["mean"] >= DICE_EXPECTED:
        say(
            f"The mean is below {DICE_EXPECTED:.2f}, which a working installation reaches: try nnUNetv2_selfreg doctor."
        )
        return 1
    return 0


def _usable_device(wanted: str | None) -> str:
    import torch

    usable = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    device = wanted or ("cuda" if usable["cuda"] else "cpu")
    if not usable[device]:
        others = " or ".join(f"--device {name}" for name, works in usable.items() if works)
        raise SelfRegError(f"--device {device}: PyTorch finds no such device here; use {others}")
    return device


def _seed(text: str) -> int:
    seed = int(text)
    if seed < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, got {text}")
    return seed
