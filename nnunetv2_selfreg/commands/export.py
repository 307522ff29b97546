"""`nnUNetv2_selfreg export`: a trained model for people who do not have this package.

SelfReg adds nothing to the network, so the model is a stock one as soon as its checkpoints name the stock trainer.
nnU-Net keeps a model under its data set, trainer, plans and configuration, and its installer replaces files without
asking. So that nobody's own stock model is mixed with the exported one, the export's plans have a name of their own.
"""

import argparse
import shlex
import shutil
import sys
from collections.abc import Sequence
from datetime import date
from importlib.metadata import version
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import torch

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.commands.plans import check_identifier
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.files import copy_files, new_file, new_folder, write_json
from nnunetv2_selfreg.model_folder import CHECKPOINT, LAYOUT, MODEL_FILES, ModelFolder, load_checkpoint
from nnunetv2_selfreg.names import STOCK
from nnunetv2_selfreg.terms import SHARE

ORIGIN = "selfreg_origin.json"
# what nnU-Net's own export takes along when it is there
COMPANIONS = (
    "dataset_fingerprint.json",
    "crossval_results_folds_*/summary.json",
    "crossval_results_folds_*/postprocessing.*",
)
FOLD_COMPANIONS = ("progress.png", "selfreg.png", "validation/summary.json")
EVERY_FOLD = ("0", "1", "2", "3", "4")  # what nnUNetv2_predict takes without -f


class Exported(NamedTuple):
    """What was written.

    Attributes:
        before: Bytes of the model's checkpoints.
        after: Bytes of the exported ones.
        predict: The command that predicts with the exported model.
        previous: The configuration whose predictions a cascade's second stage reads; None for others.
    """

    before: int
    after: int
    predict: str
    previous: str | None


def main(arguments: Sequence[str]) -> int:
    """Exports one model folder.

    Args:
        arguments: The command line after `nnUNetv2_selfreg export`.

    Returns:
        The exit code, 0.

    Raises:
        SelfRegError: As `export`.
    """
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg export",
        description="Writes a model trained with SelfReg under nnU-Net's stock trainer name, for people who do not "
        "have this package, and checks that both predict the same.",
    )
    parser.add_argument("model", type=Path, metavar="MODEL_FOLDER", help=LAYOUT)
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUT",
        help="new folder, laid out like nnUNet_results; a zip file if it ends in .zip",
    )
    parser.add_argument("--zip", action="store_true", help="add .zip to OUT if it does not end so")
    parser.add_argument(
        "-p",
        dest="plans",
        metavar="PLANS",
        help="name of the exported plans; default: that of the model's plans with what SelfReg adds to the trainer's "
        "name, nnUNetPlansSelfReg say, so that no stock model is replaced",
    )
    parser.add_argument("-f", dest="folds", nargs="+", metavar="FOLD", help="default: every fold of the model")
    parser.add_argument("-chk", dest="checkpoint", default=CHECKPOINT, help="default: %(default)s")
    parser.add_argument(
        "--without-optimizer", action="store_true", help="leave out the optimizer's state: smaller, but not for --c"
    )
    parser.add_argument(
        "--device", default="cpu", choices=["cpu", "cuda", "mps"], help="where both predict; default: %(default)s"
    )
    parsed = parser.parse_args(arguments)
    output: Path = parsed.output
    if not output.name:
        raise SelfRegError(f"{output} exists already; name another")
    if parsed.zip and not _is_zip(output):
        output = output.with_name(f"{output.name}.zip")
    optimizer = not parsed.without_optimizer
    done = export(parsed.model, output, parsed.folds, parsed.checkpoint, optimizer, parsed.plans, parsed.device)
    before, after = (f"{size / 2**20:.1f} MiB" for size in (done.before, done.after))
    name = shlex.quote(str(output))
    install = (
        f"nnUNetv2_install_pretrained_model_from_zip {name}" if _is_zip(output) else f"cp -r {name}/. $nnUNet_results"
    )
    print(f"wrote {output}; checkpoints {before} before, {after} now; both models predict the same")
    print(f"install it and predict, with nnU-Net alone, by\n  {install}\n  {done.predict}")
    if done.previous:
        print(f"PREVIOUS are predictions of {done.previous}, which nnU-Net needs first: export that model, too")
    return 0


def export(
    path: Path,
    output: Path,
    folds: Sequence[str] | None = None,
    checkpoint: str = CHECKPOINT,
    optimizer: bool = True,
    plans_name: str | None = None,
    device: str = "cpu",
) -> Exported:
    """Writes a SelfReg model under its stock trainer's name, whole or not at all.

    Args:
        path: The model folder, `DATASET/TRAINER__PLANS__CONFIGURATION`.
        output: A folder that does not exist yet, which is laid out like `nnUNet_results`; a zip file if it ends in
            `.zip`.
        folds: Names of the folds (`0`, `all`); every fold of the model when left out.
        checkpoint: Which checkpoint of each fold.
        optimizer: Whether to keep the optimizer's state, which only going on with the training needs.
        plans_name: Name of the exported plans; that of the model's plans and what SelfReg adds to the trainer's name
            when left out. With the model's own it is warned of what the installer would replace.
        device: Where both models predict.

    Returns:
        What was written.

    Raises:
        SelfRegError: The folder is not a finished SelfReg model, the plans cannot have this name, or the export cannot
            be written or differs from the model.
    """
    model = ModelFolder.open(path)
    stock, settings = model.stock_name, model.settings
    if stock is None or settings is None:
        raise SelfRegError(f"{model.trainer} is not a SelfReg trainer; its model can be shared as it is")
    if model.builds_own_network:
        raise SelfRegError(
            f"{model.trainer} builds a network of its own, which {stock} does not; share the model as it is, with this "
            "package and the trainer's file"
        )
    if plans_name is None:
        added = model.trainer.removeprefix(STOCK).removesuffix(stock.removeprefix(STOCK))
        plans_name = f"{model.plans_name}{added}"
    check_identifier(plans_name, "-p")
    sources = model.checkpoints(folds, checkpoint)
    if output.exists():
        raise SelfRegError(f"{output} exists already; name another")
    if plans_name == model.plans_name:
        print(
            f"warning: where {model.dataset} has a model of {stock} and {plans_name} already, installing this one "
            "replaces folds of it and leaves others: two models in one folder",
            file=sys.stderr,
        )

    logged = [*(term.name for term in model.trainer_class.terms), SHARE]
    origin: dict[str, Any] = {
        "trainer": model.trainer,
        "settings": settings.as_plans(),
        "dataset": model.dataset,
        "plans": model.plans_name,
        "configuration": model.configuration,
        "exported": date.today().isoformat(),
        "versions": {"nnunetv2-selfreg": __version__, "nnunetv2": version("nnunetv2"), "torch": torch.__version__},
        "cite": "Zhu et al., SelfReg-UNet, MICCAI 2024, doi 10.1007/978-3-031-72111-3_56",
        "folds": {},
    }
    before = after = 0
    with new_file(output) if _is_zip(output) else new_folder(output) as partial:
        results = partial.with_name("results") if _is_zip(output) else partial
        target = results / model.dataset / f"{stock}__{plans_name}__{model.configuration}"
        copy_files(model.path, target, (*MODEL_FILES, *COMPANIONS))
        write_json(target / "plans.json", model.plans | {"plans_name": plans_name}, indent=4)
        for fold, source in sources.items():
            content = load_checkpoint(source)
            logging = content.get("logging", {})
            origin["folds"][f"fold_{fold}"] = {
                "epochs": int(content["current_epoch"]),
                **{name: [float(value) for value in logging.pop(name)] for name in logged if name in logging},
            }
            if not optimizer:
                content["optimizer_state"] = None
            exported = target / source.relative_to(model.path)
            copy_files(source.parent, exported.parent, FOLD_COMPANIONS)
            saved = BytesIO()  # writing to a file itself, torch hides what the system says of a full disk
            torch.save(content | {"trainer_name": stock}, saved)
            exported.write_bytes(saved.getbuffer())
            before, after = before + source.stat().st_size, after + exported.stat().st_size
            mine = _logits(model, source, device)
            if not mine.isfinite().all():
                raise SelfRegError(f"{source} predicts NaN or infinity; export another checkpoint (-chk) or fold (-f)")
            if not torch.equal(mine, _logits(ModelFolder.open(target), exported, device)):
                raise SelfRegError(
                    f"fold_{fold} predicts differently as {stock}; nothing was written, please report this"
                )
        write_json(target / ORIGIN, origin)
        if _is_zip(output):
            Path(shutil.make_archive(str(results), "zip", results)).replace(partial)
    predict = f"nnUNetv2_predict -d {model.dataset} -c {model.configuration} -tr {stock} -p {plans_name}"
    if tuple(sources) != EVERY_FOLD:
        predict += f" -f {' '.join(sources)}"
    if checkpoint != CHECKPOINT:
        predict += f" -chk {checkpoint}"
    previous = model.resolved.get("previous_stage")
    predict += " -prev_stage_predictions PREVIOUS" if previous else ""
    return Exported(before, after, f"{predict} -i IMAGES -o PREDICTIONS", previous)


def _is_zip(output: Path) -> bool:
    return output.suffix.lower() == ".zip"


def _logits(model: ModelFolder, checkpoint: Path, device: str) -> torch.Tensor:
    """What a checkpoint predicts for one patch of noise, which is the same for the same model."""
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels

    predictor = model.predictor(checkpoint, device)
    predictor.use_mirroring = False  # one forward pass
    patch = list(predictor.configuration_manager.patch_size)
    shape = [1, *patch] if len(patch) == 2 else patch  # a 2d network gets slices
    channels = determine_num_input_channels(
        predictor.plans_manager, predictor.configuration_manager, predictor.dataset_json
    )
    case = torch.randn(channels, *shape, generator=torch.Generator().manual_seed(0))
    try:
        with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True):  # the same bits twice
            logits: torch.Tensor = predictor.predict_logits_from_preprocessed_data(case)
    except RuntimeError as error:
        reason = next(iter(str(error).splitlines()), "")
        raise SelfRegError(f"{model.name} cannot predict on {device}; try another --device: {reason}") from None
    return logits
