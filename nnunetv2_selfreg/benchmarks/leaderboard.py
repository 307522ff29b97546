"""`nnUNetv2_selfreg leaderboard`: scores of one run, and the table of all of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunetv2_selfreg.benchmarks.protocol import ENSEMBLE
from nnunetv2_selfreg.benchmarks.registry import PROTOCOLS
from nnunetv2_selfreg.errors import SelfRegError


def main(arguments: Sequence[str]) -> int:
    """Scores predictions, or writes the table; SelfRegError for what cannot be scored or put into one table."""
    parsed = _parser().parse_args(arguments)
    if parsed.action == "table":
        from nnunetv2_selfreg.benchmarks.table import write_table

        for path in write_table(parsed.results, parsed.output or parsed.results):
            print(f"wrote {path}")
        return 0

    from nnunetv2_selfreg.benchmarks.score import Run, write_scores

    output: Path = parsed.output
    if output.suffix != ".csv" or output.stem == "table":
        raise SelfRegError(f"-o {output}: name a .csv file other than table.csv")
    fold = parsed.fold or ENSEMBLE
    if not (parsed.fold or PROTOCOLS[parsed.benchmark].ensemble):
        raise SelfRegError(f"{parsed.benchmark} scores each fold alone; say which with --fold")
    if parsed.folds and fold != ENSEMBLE:
        raise SelfRegError(f"--folds names the folds of an ensemble; with --fold {fold} leave it out")
    if parsed.folds and parsed.model is None:
        raise SelfRegError("--folds names the folds of a model; give the model with --model")
    places = parsed.predictions, parsed.references, parsed.dataset_json
    run = Run(parsed.benchmark, *places, parsed.model, fold, parsed.folds, parsed.seed)
    sidecar = write_scores(run, output, parsed.allow_incomplete, parsed.overwrite)
    print(f"wrote {output} and {output.with_suffix('.json').name}: {sidecar['cases']} cases")
    for line in sidecar["incomplete"]:
        print(f"incomplete: {line}")
    if parsed.model is None:
        print("no --model was given: the table shows these scores, but no difference to another training")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="nnUNetv2_selfreg leaderboard",
        description="Scores predictions by a benchmark's own rule and by nnU-Net's, and writes the table that compares "
        "SelfReg with stock nnU-Net and the published numbers.",
    )
    actions = parser.add_subparsers(dest="action", required=True, metavar="{score,table}")
    score = actions.add_parser("score", help="score one run's predictions of the test set, case by case")
    score.add_argument("benchmark", choices=PROTOCOLS, metavar="BENCHMARK", help=", ".join(PROTOCOLS))
    score.add_argument("predictions", type=Path, metavar="PREDICTIONS", help="folder of predicted label maps")
    score.add_argument("references", type=Path, metavar="REFERENCES", help="folder of reference label maps: labelsTs")
    score.add_argument("-o", dest="output", type=Path, required=True, metavar="RESULTS/NAME.csv", help="per-case CSV")
    score.add_argument("--dataset-json", type=Path, required=True, metavar="FILE", help="of the converted data set")
    score.add_argument(
        "--model",
        type=Path,
        metavar="MODEL_FOLDER",
        help="nnUNet_results/DATASET/TRAINER__PLANS__CONFIG, which made "
        "the predictions; without it the table has no difference to another training",
    )
    score.add_argument(
        "--fold",
        type=_fold,
        metavar="FOLD",
        help="0, 1, ..., all or ensemble; default: ensemble where the protocol is one",
    )
    score.add_argument(
        "--folds", type=int, nargs="+", metavar="N", help="of the ensemble; default: every fold that is finished"
    )
    score.add_argument("--seed", type=int, metavar="N", help="where several trainings of a fold are compared")
    score.add_argument("--allow-incomplete", action="store_true", help="leave out references without prediction")
    score.add_argument("--overwrite", action="store_true", help="replace the files of an earlier run")
    table = actions.add_parser("table", help="put every run of a folder into one table")
    table.add_argument("results", type=Path, metavar="RESULTS", help="folder of what 'score' wrote")
    table.add_argument("-o", dest="output", type=Path, metavar="OUT", help="folder to write to; default: RESULTS")
    return parser


def _fold(text: str) -> str:
    if text != ENSEMBLE and text != "all" and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a fold's number, all or {ENSEMBLE}, got {text}")
    return text
