"""`nnUNetv2_selfreg demo`: makes the phantom data set and takes it through nnU-Net's own commands with SelfReg."""

import argparse
import json
import os
import time
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.commands.steps import Commands, PredictionWatch, TrainingWatch, Watch, say
from nnunetv2_selfreg.commands.phantom import DATASET, LABELS, TRAINING_CASES, UNSEEN_CASES, case_name, write_dataset
from nnunetv2_selfreg.errors import SelfRegError

NUMBER = DATASET.removeprefix("Dataset").split("_")[0]
PLANS = "nnUNetPlansDemo"
EPOCHS = 5
TRAINER = f"nnUNetTrainerSelfReg_{EPOCHS}epochs"
# In GB: so little that nnU-Net plans what two CPU cores can train in minutes, batches of two patches of 56 x 56.
MEMORY_TARGET = "0.016"
DICE_EXPECTED = 0.80
MARKER = "demo.json"
MADE_BY = "nnUNetv2_selfreg demo"


@dataclass(frozen=True)
class Step:
    """One part of the demo.

    Attributes:
        name: What the marker and the log call it.
        title: What the reader is told.
        products: What is there when it has finished.
        action: Does it.
    """

    name: str
    title: str
    products: Sequence[Path]
    action: Callable[[], None]


@dataclass
class Marker:
    """`demo.json`: says that a folder is this demo's, and which parts have finished in how many seconds."""

    path: Path
    seed: int
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def claim(cls, folder: Path, seed: int) -> "Marker":
        """Takes a folder that is new, empty, or this demo's own, and changes nothing in any other.

        Args:
            folder: The folder that everything goes under.
            seed: The data set's seed.

        Raises:
            SelfRegError: The folder holds something else, or a demo of another seed or version.
        """
        path, way_out = folder / MARKER, "name another folder with --folder"
        if folder.exists() and not folder.is_dir():
            raise SelfRegError(f"{folder} is not a folder: {way_out}")
        if path.is_file():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                made_by, version, its_seed, seconds = (found[key] for key in ("made_by", "version", "seed", "seconds"))
                seconds = {str(name): float(value) for name, value in seconds.items()}
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                raise SelfRegError(f"{path} is not a file that this demo wrote: {way_out}") from error
            for what, its, ours in (
                ("made by", made_by, MADE_BY),
                ("of version", version, __version__),
                ("of seed", its_seed, seed),
            ):
                if its != ours:
                    raise SelfRegError(f"{folder} holds a demo {what} {its}, not {ours}: {way_out}")
            return cls(path, seed, seconds)
        if folder.is_dir() and any(folder.iterdir()):
            raise SelfRegError(f"{folder} is not empty and was not made by this demo: {way_out}")
        folder.mkdir(parents=True, exist_ok=True)
        marker = cls(path, seed)
        marker.save()
        return marker

    def save(self) -> None:
        """Writes the file, whole or not at all."""
        content = {"made_by": MADE_BY, "version": __version__, "seed": self.seed, "seconds": self.seconds}
        partial = self.path.with_suffix(".partial")
        partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        os.replace(partial, self.path)


def run_steps(steps: Sequence[Step], marker: Marker) -> set[str]:
    """Runs every step that has not finished, and all that follow one that was run.

    Args:
        steps: The steps in their order.
        marker: Knows which have finished; is saved after each.

    Returns:
        The names of the steps that were run.
    """
    run: set[str] = set()
    for position, step in enumerate(steps, 1):
        say(f"\n[{position}/{len(steps)}] {step.title}")
        if not run and step.name in marker.seconds and all(product.exists() for product in step.products):
            say(f"  is there already: {step.products[-1]}")
            continue
        if not run:
            # What follows would be of older products, should this run be cut short.
            for later in steps[position - 1 :]:
                marker.seconds.pop(later.name, None)
            marker.save()
        begin = time.monotonic()
        step.action()
        marker.seconds[step.name] = round(time.monotonic() - begin, 1)
        marker.save()
        run.add(step.name)
        say(f"  done in {_duration(marker.seconds[step.name])}")
    return run


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
        predicted = [self._predictions / f"{case_name(number)}.nii.gz" for number in UNSEEN_CASES]
        return [
            Step(
                "data",
                f"Drawing {len(TRAINING_CASES)} training and {len(UNSEEN_CASES)} unseen cases",
                [self._dataset / "dataset.json"],
                self._draw,
            ),
            Step(
                "preprocessing",
                "Planning and preprocessing: nnU-Net configures itself; -gpu_memory_target keeps it small",
                [self._preprocessed / DATASET / f"{PLANS}.json"],
                self._preprocess,
            ),
            Step(
                "training",
                f"Training with SelfReg: {EPOCHS} epochs on the {self._device.upper()}",
                [self._fold / "checkpoint_final.pth"],
                self._train,
            ),
            Step("prediction", "Predicting the unseen cases", predicted, self._predict),
            Step("evaluation", "Comparing the predictions with the reference", [self._summary], self._evaluate),
            Step("overlay", "Drawing a prediction", [self.overlay], self._draw_overlay),
        ]

    def dice(self) -> dict[str, float]:
        """The evaluation's mean Dice of the unseen cases, by class, and `mean` of the classes."""
        summary: Mapping[str, Any] = json.loads(self._summary.read_text(encoding="utf-8"))
        dice = {name: float(summary["mean"][str(label)]["Dice"]) for name, label in LABELS.items() if label}
        return {**dice, "mean": float(summary["foreground_mean"]["Dice"])}

    def _draw(self) -> None:
        write_dataset(self._raw, self._seed)
        say(f"  {self._dataset}")

    def _preprocess(self) -> None:
        self._preprocessed.mkdir(exist_ok=True)
        count = ["-np", self._processes, "-npfp", self._processes]
        small = ["-gpu_memory_target", MEMORY_TARGET, "-overwrite_plans_name", PLANS]
        command = ["nnUNetv2_plan_and_preprocess", "-d", NUMBER, "-c", "2d", *small, *count]
        self.commands.run("02_preprocessing", [*command, "--verify_dataset_integrity"], Watch())

    def _train(self) -> None:
        self._results.mkdir(exist_ok=True)
        command = ["nnUNetv2_train", NUMBER, "2d", "0", "-p", PLANS, "-tr", TRAINER, "-device", self._device]
        if self._can_continue():
            command.append("--c")
        # Without a GPU, augmenting in processes of their own only takes the CPU from the network.
        extra = {} if self._device == "cuda" else {"nnUNet_n_proc_DA": "0"}
        self.commands.run("03_training", command, TrainingWatch(EPOCHS, _foreground()), **extra)

    def _predict(self) -> None:
        places = ["-i", str(self._dataset / "imagesTs"), "-o", str(self._predictions)]
        model = ["-d", NUMBER, "-c", "2d", "-f", "0", "-p", PLANS, "-tr", TRAINER]
        command = ["nnUNetv2_predict", *places, *model, "-device", self._device, "-npp", "1", "-nps", "1"]
        self.commands.run("04_prediction", command, PredictionWatch(len(UNSEEN_CASES)))

    def _evaluate(self) -> None:
        what = [str(self._dataset / "labelsTs"), str(self._predictions)]
        files = ["-djfile", str(self._predictions / "dataset.json"), "-pfile", str(self._predictions / "plans.json")]
        self.commands.run("05_evaluation", ["nnUNetv2_evaluate_folder", *what, *files], Watch())

    def _draw_overlay(self) -> None:
        from nnunetv2_selfreg.commands.overlay import write_overlay

        name = case_name(UNSEEN_CASES[0])
        image = self._dataset / "imagesTs" / f"{name}_0000.nii.gz"
        reference = self._dataset / "labelsTs" / f"{name}.nii.gz"
        write_overlay(image, reference, self._predictions / f"{name}.nii.gz", self.overlay)

    def _can_continue(self) -> bool:
        """Whether nnU-Net's `--c` would find a whole checkpoint of the data set as it is now."""
        for name in ("final", "latest", "best"):  # nnU-Net's own order
            checkpoint = self._fold / f"checkpoint_{name}.pth"
            if checkpoint.is_file():
                plans = self._preprocessed / DATASET / f"{PLANS}.json"
                # A checkpoint is a zip archive, whose directory is written last.
                return zipfile.is_zipfile(checkpoint) and checkpoint.stat().st_mtime > plans.stat().st_mtime
        return False


def report(dice: Mapping[str, float], seconds: Mapping[str, float], run: set[str], overlay: Path) -> list[str]:
    """The lines that the demo ends with.

    Args:
        dice: Dice by class, and `mean`.
        seconds: How long each part took, by name.
        run: Which parts were run this time; the others are marked as earlier ones.
        overlay: The picture.

    Returns:
        The lines, tables aligned.
    """
    width = max(map(len, [*dice, *seconds]))
    lines = ["", f"Dice of the {len(UNSEEN_CASES)} unseen cases"]
    lines += [f"  {name:<{width}}  {value:10.2f}" for name, value in dice.items()]
    lines += ["", "Time"]
    for name, value in seconds.items():
        lines.append(f"  {name:<{width}}  {_duration(value):>10}{'' if name in run else '  (an earlier run)'}")
    lines.append(f"  {'total':<{width}}  {_duration(sum(seconds.values())):>10}")
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
        arguments: The command line without the program's and the command's name.

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
    for line in report(dice, marker.seconds, run, demo.overlay):
        say(line)
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


def _foreground() -> list[str]:
    return [name for name, label in LABELS.items() if label]


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
