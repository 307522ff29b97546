"""The commands that are tried on mangled files: what each is given, and what it has to make of it."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import archives
import numpy as np
import pandas as pd
import scored
import torch
from manglings import Ended, Mangling, run, snapshot
from model_folders import CLASSES, write_model, write_phantoms, write_plans
from PIL import Image

from nnunetv2_selfreg.benchmarks.registry import PROTOCOLS
from nnunetv2_selfreg.benchmarks.run_files import write_run

TRAINER = "nnUNetTrainerSelfRegSCR"
NEW = "new"


@dataclass(frozen=True)
class Command:
    """A command, what it is given, and what it has to make of it.

    Attributes:
        fill: Writes what it is given into an empty folder.
        arguments: The command line, of a folder with what it is given in `given`.
        output: The file or folder that it writes, relative to the folder.
        main: The file in it that says whether it is an older one; empty if it is `output` itself.
        replace: The option with which it replaces an older output; None if it never does, empty if always.
        right: Whether the output is right, of the folder, a folder where nothing was mangled, and the mangling.
        examples: How many manglings the suite tries.
    """

    fill: Callable[[Path], None]
    arguments: Callable[[Path], Sequence[object]]
    output: str
    main: str
    replace: str | None
    right: Callable[[Path, Path, Mangling], None]
    examples: int

    def run(self, root: Path, mangling: Mangling, replace: bool) -> Ended:
        """Runs it in a folder."""
        options = [self.replace] if replace and self.replace else []
        environment = {f"nnUNet_{name}": str(root / name) for name in ("raw", "results")}
        environment["nnUNet_preprocessed"] = str(root / "given")
        return run([*self.arguments(root), *options], environment, mangling)


def glas(given: Path) -> None:
    archives.glas(given / "all")
    folder = given / "archive" / "Warwick"
    folder.mkdir(parents=True)
    for name in ("train_1", "train_2", "train_11", "testA_1", "testB_3"):
        for path in (given / "all").glob(f"*/{name}[._]*"):
            path.rename(folder / path.name)
    shutil.rmtree(given / "all")


def glas_zip(given: Path) -> None:
    glas(given)
    shutil.make_archive(str(given / "archive"), "zip", given / "archive")
    shutil.rmtree(given / "archive")


def acdc(given: Path) -> None:
    archives.acdc(given / "archive", (1, 2, 4))


def converted(root: Path, clean: Path, mangling: Mangling) -> None:
    """Each case is as it was, or left out, said to be missing, and no other than the mangled one."""
    (dataset,) = (root / "raw").glob("Dataset*")
    found, whole = (snapshot(folder / "raw" / dataset.name) for folder in (root, clean))
    told = json.loads(found.pop("dataset.json"))
    whole.pop("dataset.json")
    found.pop("splits_final.json", None), whole.pop("splits_final.json", None)
    assert not told["benchmark"]["complete"]
    for name in whole.keys() - found.keys():
        case = name.split("/")[-1].removesuffix("_0000.png").removesuffix("_0000.nii.gz").split(".")[0]
        missing = [one for part in told["benchmark"]["missing"].values() for one in part]
        assert any(case.startswith(one) for one in missing), f"{case} lost silently"  # of ACDC also whole patients
        file = case.split("_frame")[0]  # a patient's Info.cfg names the frames
        lost = [path for path in snapshot(clean / "given") if path.startswith(mangling.path) and file in path]
        assert mangling.path.endswith(".zip") or lost, f"{case} lost, but {mangling.path} was mangled"
    assert found.items() <= whole.items(), f"changed: {[name for name in found if found[name] != whole.get(name)]}"


def scores(given: Path) -> None:
    protocol, drawn = PROTOCOLS["glas"], np.random.default_rng(0)
    for trainer in ("nnUNetTrainer", "nnUNetTrainerSelfReg"):
        arm = {"benchmark": "glas", "protocol": "each fold alone"}
        arm |= {"trainer": trainer, "plans": "nnUNetPlans", "configuration": "2d", "fold": "0", "seed": None}
        rows = [
            {**arm, "rule": rule, "case": case, "cluster": case, "class": "gland", "metric": metric}
            for rule, metrics in protocol.metrics.items()
            for metric in metrics
            for case in ("testA_1", "testA_2", "testB_1")
        ]
        described = {"cases": 3, "clusters": 3, "epochs": {"0": 1000}, "versions": {}, "incomplete": [], "missing": {}}
        frame = pd.DataFrame(rows).assign(value=drawn.uniform(0.8, 0.9, len(rows)).round(3), seed="")
        write_run(given / "scores" / f"glas_{trainer}.csv", frame, {**arm, "network": "0123", **described})


def plans(given: Path) -> None:
    folder = given / "Dataset001_Tiny"
    (folder / "Tiny_2d").mkdir(parents=True)
    (folder / "nnUNetPlans.json").write_text(json.dumps(write_plans("2d", 2, 1, {})))
    described = {"channel_names": {"0": "MRI"}, "labels": CLASSES, "numTraining": 5, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(described))


def planned(root: Path, clean: Path, mangling: Mangling) -> None:
    folder = root / "given" / "Dataset001_Tiny"
    wanted = json.loads((folder / "nnUNetPlans.json").read_text())
    wanted["plans_name"] = "New"
    wanted["configurations"]["2d"].setdefault("selfreg", {}).update(lambda_scr=0.5, encoder_stages=[1])
    assert json.loads((folder / "New.json").read_text()) == wanted


def models(given: Path) -> None:
    scored.write_model(given / "Dataset001_Tiny" / "nnUNetTrainer__Tiny__2d", scored.FIRST)
    scored.write_model(given / "Dataset001_Tiny" / f"{TRAINER}__Tiny__2d", scored.SECOND)


def selfreg_model(given: Path) -> None:
    folder = write_model(given / "Dataset001_Tiny", 2, CLASSES)
    folder = folder.rename(folder.with_name(f"{TRAINER}__Tiny__2d"))
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False) | {"trainer_name": TRAINER, "optimizer_state": {}}
    torch.save(content, path)
    (folder / "fold_0" / "validation").mkdir()
    (folder / "fold_0" / "validation" / "summary.json").write_text("{}")
    Image.new("RGB", (2, 2)).save(folder / "fold_0" / "progress.png")


def exported(root: Path, clean: Path, mangling: Mangling) -> None:
    """All that was in the model folder is in the exported one, and its checkpoint has the same weights."""
    (new,) = (root / NEW / "Dataset001_Tiny").iterdir()
    (old,) = (clean / "given" / "Dataset001_Tiny").iterdir()
    assert new.name == "nnUNetTrainer__TinySelfRegSCR__2d"
    mangled = root / "given" / old.relative_to(clean / "given")
    found, source = snapshot(new), snapshot(mangled)
    for name in ("dataset.json", "fold_0/progress.png", "fold_0/validation/summary.json"):
        there = source.get(name) if (mangled / name).is_file() else None
        assert found.get(name) == there, f"{name} is not as it was"
    weights = [torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False) for folder in (new, old)]
    for name, value in weights[1]["network_weights"].items():
        torch.testing.assert_close(weights[0]["network_weights"][name], value, rtol=0, atol=0)
    plans = json.loads((mangled / "plans.json").read_text())
    assert json.loads((new / "plans.json").read_text()) == plans | {"plans_name": "TinySelfRegSCR"}


def inspected(given: Path) -> None:
    write_model(given / "Dataset001_Tiny", 2, CLASSES)
    write_phantoms(given / "raw", 1)


def same(path: str) -> Callable[[Path, Path, Mangling], None]:
    """The file is as it is where nothing was mangled, but for the folder's name."""

    def right(root: Path, clean: Path, mangling: Mangling) -> None:
        found, wanted = ((folder / path).read_text().replace(str(folder), "") for folder in (root, clean))
        assert found == wanted

    return right


def convert(name: str, source: str) -> Callable[[Path], Sequence[object]]:
    return lambda root: ["convert", name, root / "given" / source, "--allow-incomplete"]


MODEL = f"Dataset001_Tiny/{TRAINER}__Tiny__2d"
STOCK = "Dataset001_Tiny/nnUNetTrainer__Tiny__2d"
COMMANDS = {
    "convert a folder of pictures": Command(
        glas, convert("glas", "archive"), "raw/Dataset227_GlaS", "dataset.json", "--overwrite", converted, 12
    ),
    "convert a zip": Command(
        glas_zip, convert("glas", "archive.zip"), "raw/Dataset227_GlaS", "dataset.json", "--overwrite", converted, 8
    ),
    "convert a folder of volumes": Command(
        acdc, convert("acdc", "archive"), "raw/Dataset027_ACDC", "dataset.json", "--overwrite", converted, 6
    ),
    "leaderboard table": Command(
        scores,
        lambda root: ["leaderboard", "table", root / "given" / "scores", "-o", root / NEW],
        NEW,
        "table.csv",
        "",
        same(f"{NEW}/table.csv"),
        2,
    ),
    "plans": Command(
        plans,
        lambda root: "plans -d Dataset001_Tiny -o New --lambda-scr 0.5 --encoder-stages 1".split(),
        "given/Dataset001_Tiny/New.json",
        "",
        "--overwrite",
        planned,
        8,
    ),
    "compare": Command(
        models,
        lambda root: ["compare", root / "given" / STOCK, root / "given" / MODEL, "-o", root / NEW],
        NEW,
        "cases.csv",
        "--overwrite",
        same(f"{NEW}/cases.csv"),
        4,
    ),
    "export": Command(
        selfreg_model, lambda root: ["export", root / "given" / MODEL, root / NEW], NEW, "", None, exported, 5
    ),
    "inspect": Command(
        inspected,
        lambda root: [
            *("inspect", root / "given" / STOCK, "-o", root / NEW, "--device", "cpu"),
            *("--images", root / "given/raw/imagesTs", "--labels", root / "given/raw/labelsTs"),
        ],
        NEW,
        "values.json",
        "--overwrite",
        same(f"{NEW}/values.json"),
        1,
    ),
}
