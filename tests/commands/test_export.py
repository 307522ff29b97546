"""What is exported under which name, and what is refused with nothing written, on small models with random weights."""

import json
import math
import resource
import shlex
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from model_folders import CLASSES, write_model

from nnunetv2_selfreg.commands.export import export, main
from nnunetv2_selfreg.compat import find_external_trainer
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.model_folder import ModelFolder

TRAINER = "nnUNetTrainerSelfRegSCR"
STUDY = Path(__file__).parents[2] / "examples" / "study" / "trainers"
MINE = """
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss
from nnunetv2_selfreg.terms import BUILT_IN, own_term
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg


class nnUNetTrainerMine(nnUNetTrainerSelfReg, nnUNetTrainerCELoss):
    terms = (*BUILT_IN, own_term("size", lambda student, teacher: student.square().mean(), weight=0.5))
"""


OWN_NETWORK = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

class nnUNetTrainerOwn(nnUNetTrainer):
    @staticmethod
    def build_network_architecture(*arguments, **named):
        return nnUNetTrainer.build_network_architecture(*arguments, **named)
"""


def named(model, trainer, **changes):
    """The model as if this trainer had trained it; `changes` go into its first checkpoint."""
    folder = model.rename(model.with_name(f"{trainer}__Tiny__2d"))
    path = folder / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False) | {"trainer_name": trainer, "optimizer_state": {}}
    torch.save(content | changes, path)
    return folder


@pytest.fixture
def stock_model(tmp_path):
    return write_model(tmp_path / "results" / "Dataset001_Tiny", 2, CLASSES)


@pytest.fixture
def model(stock_model):
    """A model with two folds."""
    folder = named(stock_model, TRAINER)
    shutil.copytree(folder / "fold_0", folder / "fold_1")
    return folder


def origin(output):
    (exported,) = (output / "Dataset001_Tiny").iterdir()
    return exported.name, json.loads((exported / "selfreg_origin.json").read_text())


def needs_external_trainers(monkeypatch, folder, trainer):
    monkeypatch.setenv("nnUNet_extTrainer", str(folder))
    if find_external_trainer(trainer) is None:
        pytest.skip("nnU-Net reads nnUNet_extTrainer since 2.8")


def test_names_settings_and_logged_values(model, tmp_path, capsys):
    assert main([str(model), str(tmp_path / "out"), "-f", "1"]) == 0
    first, *others = capsys.readouterr().out.splitlines()
    assert first.endswith("now; both models predict the same")
    assert others == [
        "install it and predict, with nnU-Net alone, by",
        f"  cp -r {shlex.quote(str(tmp_path / 'out'))}/. $nnUNet_results",
        "  nnUNetv2_predict -d Dataset001_Tiny -c 2d -tr nnUNetTrainer -p TinySelfRegSCR -f 1 -i IMAGES -o PREDICTIONS",
    ]
    name, told = origin(tmp_path / "out")
    assert name == "nnUNetTrainer__TinySelfRegSCR__2d"
    plans = tmp_path / "out" / "Dataset001_Tiny" / name / "plans.json"
    assert json.loads(plans.read_text()) == json.loads((model / "plans.json").read_text()) | {
        "plans_name": "TinySelfRegSCR"
    }
    assert told["trainer"] == TRAINER
    assert told["settings"] == {
        "lambda_scr": 0.015,
        "taps": "stages",
        "encoder_stages": None,
        "decoder_stages": None,
        "teacher": None,
        "every": 1,
        "scr_channels": "drawn",
    }
    assert told["folds"]["fold_1"]["epochs"] == 2
    assert told["folds"]["fold_1"]["scr"] == [1.5, pytest.approx(float("nan"), nan_ok=True)]
    assert told["folds"].keys() == {"fold_1"}


def test_the_printed_command_names_the_checkpoint_and_the_folds_that_are_there(model, tmp_path, capsys):
    """An interrupted training; and all five folds, which nnU-Net takes by itself."""
    shutil.copy(model / "fold_1" / "checkpoint_final.pth", model / "fold_1" / "checkpoint_latest.pth")
    assert main([str(model), str(tmp_path / "one"), "-f", "1", "-chk", "checkpoint_latest.pth"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("-tr nnUNetTrainer -p TinySelfRegSCR -f 1 -chk checkpoint_latest.pth -i IMAGES -o PREDICTIONS")
    )
    assert [path.name for path in (tmp_path / "one").rglob("*.pth")] == ["checkpoint_latest.pth"]
    for fold in (2, 3, 4):
        shutil.copytree(model / "fold_0", model / f"fold_{fold}")
    assert main([str(model), str(tmp_path / "five")]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("-tr nnUNetTrainer -p TinySelfRegSCR -i IMAGES -o PREDICTIONS")
    )


def test_the_studys_subclass_is_exported_as_the_trainer_that_it_is_made_of(stock_model, tmp_path, monkeypatch):
    trainer = "nnUNetTrainerSelfRegRamped_10epochs"
    needs_external_trainers(monkeypatch, STUDY, trainer)
    export(named(stock_model, trainer), tmp_path / "out")
    name, told = origin(tmp_path / "out")
    assert name == "nnUNetTrainer_10epochs__TinySelfRegRamped__2d"
    assert told["trainer"] == trainer
    assert told["settings"]["lambda_ifd"] == 0.015


def test_a_trainer_of_ones_own_with_a_term_of_ones_own(stock_model, tmp_path, monkeypatch):
    external = tmp_path / "external"
    external.mkdir()
    (external / "mine.py").write_text(MINE)
    needs_external_trainers(monkeypatch, external, "nnUNetTrainerMine")
    logging = {"mean_fg_dice": [0.5], "size": [2.5], "scr": [1.5], "ifd": [1.0], "selfreg_share": [0.25]}
    export(named(stock_model, "nnUNetTrainerMine", logging=logging), tmp_path / "out")
    name, told = origin(tmp_path / "out")
    assert name == "nnUNetTrainerCELoss__TinyMine__2d"
    assert told["settings"]["lambda_size"] == 0.5
    del told["folds"]["fold_0"]["epochs"]
    assert told["folds"]["fold_0"] == {name: values for name, values in logging.items() if name != "mean_fg_dice"}
    checkpoint = tmp_path / "out" / "Dataset001_Tiny" / name / "fold_0" / "checkpoint_final.pth"
    assert torch.load(checkpoint, weights_only=False)["logging"] == {"mean_fg_dice": [0.5]}


class Evil:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return (print, ("this ran",))


def test_a_checkpoint_that_would_run_code_is_refused(stock_model, tmp_path, capsys):
    folder = named(stock_model, TRAINER, logging=Evil())
    with pytest.raises(SelfRegError, match=r"checkpoint_final\.pth is not loaded: .*would run code from it$"):
        export(folder, tmp_path / "out")
    assert "this ran" not in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


def test_what_find_best_configuration_leaves_goes_along_but_for_its_predictions(model, tmp_path):
    merged = model / "crossval_results_folds_0_1"
    (merged / "postprocessed").mkdir(parents=True)
    for name in (
        "summary.json",
        "postprocessing.pkl",
        "postprocessing.json",
        "case.nii.gz",
        "postprocessed/case.nii.gz",
    ):
        (merged / name).write_text("{}")
    export(model, tmp_path / "out")
    (exported,) = (tmp_path / "out" / "Dataset001_Tiny").iterdir()
    found = {path.name for path in (exported / merged.name).iterdir()}
    assert found == {"summary.json", "postprocessing.pkl", "postprocessing.json"}


def test_a_network_that_cannot_predict_here_is_named_with_the_option(model, tmp_path, monkeypatch):
    def needs_a_gpu(self, *arguments):
        raise RuntimeError("Expected x.is_cuda() to be true\nbut")

    monkeypatch.setattr(torch.nn.Conv2d, "forward", needs_a_gpu)
    with pytest.raises(SelfRegError, match=r"cannot predict on cpu; try another --device: Expected x.is_cuda\(\) to"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_both_predictions_are_by_cudnn_where_there_is_one(model, tmp_path, monkeypatch):
    seen = []
    forward = torch.nn.Conv2d.forward

    def spying(self, *arguments):
        cudnn = torch.backends.cudnn
        seen.append((cudnn.enabled, cudnn.benchmark, cudnn.deterministic))
        return forward(self, *arguments)

    monkeypatch.setattr(torch.nn.Conv2d, "forward", spying)
    export(model, tmp_path / "out", folds=["0"])
    assert set(seen) == {(True, False, True)}


def test_a_trainer_with_a_network_of_its_own_is_no_stock_one(stock_model, tmp_path, monkeypatch):
    """Its stock trainer would build the plans' network, which the weights do not fit."""
    external = tmp_path / "external"
    external.mkdir()
    (external / "mine.py").write_text(OWN_NETWORK)
    needs_external_trainers(monkeypatch, external, "nnUNetTrainerOwn")
    trainer = "nnUNetTrainerSelfRegOwn"
    expected = f"^{trainer} builds a network of its own, which nnUNetTrainer does not; share the model as it is"
    with pytest.raises(SelfRegError, match=expected):
        export(named(stock_model, trainer), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_link_has_the_name_that_was_given(model, tmp_path, capsys):
    """As nnU-Net sees it, wherever the files lie."""
    elsewhere = model.rename(tmp_path / "run17")
    model.symlink_to(elsewhere)
    assert main([str(model), str(tmp_path / "out"), "-f", "0"]) == 0
    assert "nnUNetv2_predict -d Dataset001_Tiny " in capsys.readouterr().out


def test_a_copy_of_a_model_has_the_data_set_of_its_plans(model, tmp_path, capsys):
    """nnU-Net itself makes the folder's name of what the plans say."""
    copy = shutil.copytree(model, tmp_path / "shared" / model.name)
    plans = json.loads((copy / "plans.json").read_text())
    (copy / "plans.json").write_text(json.dumps(plans | {"dataset_name": "Dataset001_Tiny"}))
    assert main([str(copy), str(tmp_path / "out"), "-f", "0"]) == 0
    assert "nnUNetv2_predict -d Dataset001_Tiny " in capsys.readouterr().out
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["Dataset001_Tiny"]


@pytest.mark.parametrize("options", [[], ["--zip"]])
def test_the_folder_that_one_is_in_is_no_name(model, options):
    with pytest.raises(SelfRegError, match=r"^\. exists already; name another$"):
        main([str(model), ".", *options])


def test_a_device_that_is_not_there_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SelfRegError, match=r"^--device cuda: PyTorch finds no such device here; use "):
        export(model, tmp_path / "out", device="cuda")
    assert not (tmp_path / "out").exists()


def test_of_a_cascade_the_first_stage_is_named(tmp_path, capsys):
    stock = write_model(tmp_path / "results" / "Dataset001_Tiny", 2, CLASSES, channels=4, previous_stage="3d_lowres")
    model = named(stock, TRAINER)
    description = json.loads((model / "dataset.json").read_text())
    # its network takes the image and a map of each class of the first stage's
    (model / "dataset.json").write_text(json.dumps(description | {"channel_names": {"0": "MRI"}}))
    assert main([str(model), str(tmp_path / "out")]) == 0
    *_, command, note = capsys.readouterr().out.splitlines()
    assert command.endswith("-prev_stage_predictions PREVIOUS -i IMAGES -o PREDICTIONS")
    assert note == "PREVIOUS are predictions of 3d_lowres, which nnU-Net needs first: export that model, too"


def test_a_half_trained_fold_is_refused(model, tmp_path):
    (model / "fold_1" / "checkpoint_final.pth").rename(model / "fold_1" / "checkpoint_latest.pth")
    with pytest.raises(SelfRegError, match=r"fold_1 has no checkpoint_final\.pth: its training has not finished"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    expected = r"fold_1 has no checkpoint_best; choose folds with -f, .*; there: checkpoint_latest\.pth"
    with pytest.raises(SelfRegError, match=expected):
        ModelFolder.open(model).checkpoints(["1"], "checkpoint_best")
    export(model, tmp_path / "out", folds=["0"])


def test_the_models_beside_one_that_does_not_exist_are_named(model):
    with pytest.raises(SelfRegError, match=f"a__b__c does not exist; models in .*: {model.name}"):
        ModelFolder.open(model.with_name("a__b__c"))
    with pytest.raises(SelfRegError, match="model does not exist; give nnUNet_results/DATASET/TRAINER__"):
        ModelFolder.open(model / "no" / "model")


def test_a_network_is_not_compiled(model, monkeypatch):
    """nnU-Net compiles it for predictions where this variable says so, but SelfReg reads its modules by name."""
    monkeypatch.setenv("nnUNet_compile", "t")
    predictor = ModelFolder.open(model).predictor(model / "fold_0" / "checkpoint_final.pth", "cpu")
    assert "encoder.stages.0" in dict(predictor.network.named_modules())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: model.rename(model.with_name("nnUNetTrainer__Tiny__2d")), "nnUNetTrainer is not a SelfReg"),
        (lambda model: model.rename(model.with_name("model")), "is not a model folder, its name has not three parts"),
        (lambda model: (model / "plans.json").unlink() or model, "is not a model folder, it has no plans.json"),
        (lambda model: model.rename(model.with_name("nnUNetTrainerSelfReg__Tiny__2d")), f"was trained by {TRAINER}"),
        (
            lambda model: (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"no") and model,
            "is not loaded: it is damaged",
        ),
        (
            lambda model: (model / "fold_0" / "checkpoint_final.pth").write_bytes(b"") or model,
            "cannot be read as a checkpoint: .",
        ),
        (lambda model: (model / "plans.json").write_text("{") and model, r"plans\.json is not a plans file"),
    ],
)
@pytest.mark.parametrize("output", ["out", "out.zip"])
def test_a_foreign_folder_is_refused_and_nothing_is_written(model, tmp_path, make, message, output):
    folder = make(model)
    with pytest.raises(SelfRegError, match=message) as refusal:
        export(folder, tmp_path / output)
    assert "\n" not in str(refusal.value)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_trainer_that_is_not_installed_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr("nnunetv2_selfreg.trainer.find_nnunet_trainer", lambda name, everywhere=True: None)
    folder = model.rename(model.with_name("nnUNetTrainerSelfReg_7epochs__Tiny__2d"))
    with pytest.raises(SelfRegError, match="has no trainer nnUNetTrainerSelfReg_7epochs; install what brings it"):
        export(folder, tmp_path / "out")


def test_a_model_that_predicts_nan_is_said_to(model, tmp_path):
    path = model / "fold_0" / "checkpoint_final.pth"
    content = torch.load(path, weights_only=False)
    next(iter(content["network_weights"].values())).view(-1)[0] = math.nan
    torch.save(content, path)
    with pytest.raises(SelfRegError, match=r"fold_0/checkpoint_final\.pth predicts NaN or infinity; export another"):
        export(model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_model_that_predicts_differently_is_not_written(model, tmp_path, monkeypatch):
    """As if saving had changed the weights' last digits."""
    save = torch.save

    def save_changed(content, path):
        weights = {name: weight * (1 + 1e-6) for name, weight in content["network_weights"].items()}
        save(content | {"network_weights": weights}, path)

    monkeypatch.setattr(torch, "save", save_changed)
    with pytest.raises(SelfRegError, match="fold_0 predicts differently as nnUNetTrainer; nothing was written"):
        export(model, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_a_single_bit_of_a_prediction_is_a_difference(model, tmp_path, monkeypatch):
    logits = torch.ones(2, 3)
    found = iter([logits, logits.clone().index_fill_(1, torch.tensor(1), 1 + torch.finfo(torch.float32).eps)])
    monkeypatch.setattr("nnunetv2_selfreg.commands.export._logits", lambda *_: next(found))
    with pytest.raises(SelfRegError, match="fold_0 predicts differently as nnUNetTrainer; nothing was written"):
        export(model, tmp_path / "out")


@pytest.mark.parametrize(
    ("output", "most"),
    [("out", 10), ("out", 30_000), ("out.zip", 30_000), ("out.zip", 80_000)],
    ids=["dataset.json", "checkpoint", "checkpoint of a zip", "zip"],
)
def test_a_file_that_there_is_no_room_for_leaves_nothing(model, tmp_path, output, most):
    """The system itself stops the writing in the middle of a file, as it does on a full disk."""
    checkpoint = (model / "fold_0" / "checkpoint_final.pth").stat().st_size
    assert 10 < (model / "dataset.json").stat().st_size < 30_000 < checkpoint < 80_000
    for fold in "234" if most == 80_000 else "":  # a zip that is larger than its checkpoints
        shutil.copytree(model / "fold_0", model / f"fold_{fold}")
    export(model, tmp_path / "whole", ["0"])  # what is imported on the way needs room, too
    shutil.rmtree(tmp_path / "whole")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        with pytest.raises(SelfRegError) as refusal:
            export(model, tmp_path / output)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    expected = f"{tmp_path / output} cannot be written: File too large; nothing was left behind"
    assert str(refusal.value) == expected
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


def test_there_is_no_room_for_a_large_tensor(stock_model, tmp_path):
    """It goes past the file's buffer, so torch meets the error while it writes."""
    folder = named(stock_model, TRAINER, optimizer_state={"momentum": torch.zeros(1_000_000)})
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, before[1]))
    try:
        with pytest.raises(SelfRegError, match="out cannot be written: File too large; nothing was left behind"):
            export(folder, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [path.name for path in tmp_path.iterdir()] == ["results"]


@pytest.mark.parametrize("output", ["out", "out.zip"])
def test_an_output_that_exists_is_left_alone(model, tmp_path, output):
    (tmp_path / output).mkdir()
    with pytest.raises(SelfRegError, match=rf"{output} exists already; name another"):
        export(model, tmp_path / output)
    assert list((tmp_path / output).iterdir()) == []


@pytest.mark.parametrize(
    ("line", "name"), [("a.zip", "a.zip"), ("a.ZIP", "a.ZIP"), ("a --zip", "a.zip"), ("a.v2 --zip", "a.v2.zip")]
)
def test_the_name_says_that_it_is_a_zip(model, tmp_path, monkeypatch, capsys, line, name):
    monkeypatch.chdir(tmp_path)
    assert main([str(model), *line.split(), "-f", "0"]) == 0
    assert f"\n  nnUNetv2_install_pretrained_model_from_zip {name}\n" in capsys.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [name, "results"]
    with zipfile.ZipFile(name) as archive:
        assert "Dataset001_Tiny/nnUNetTrainer__TinySelfRegSCR__2d/plans.json" in archive.namelist()


def test_the_models_own_plans_name_is_warned_of(model, tmp_path, capsys):
    assert main([str(model), str(tmp_path / "out"), "-p", "Tiny"]) == 0
    assert origin(tmp_path / "out")[0] == "nnUNetTrainer__Tiny__2d"
    assert capsys.readouterr().err == (
        "warning: where Dataset001_Tiny has a model of nnUNetTrainer and Tiny already, installing this one replaces "
        "folds of it and leaves others: two models in one folder\n"
    )
    assert main([str(model), str(tmp_path / "other"), "-p", "Other"]) == 0
    assert origin(tmp_path / "other")[0] == "nnUNetTrainer__Other__2d"
    assert capsys.readouterr().err == ""


def test_a_name_that_plans_cannot_have_is_refused(model, tmp_path):
    with pytest.raises(SelfRegError, match=r"^-p a__b is not a plans identifier"):
        export(model, tmp_path / "out", plans_name="a__b")
    assert not (tmp_path / "out").exists()


def test_a_fold_that_does_not_exist_is_named_with_those_that_do(model, tmp_path):
    with pytest.raises(SelfRegError) as refusal:
        export(model, tmp_path / "out", folds=["3"])
    assert str(refusal.value) == f"{model} has no fold_3; folds there: 0, 1"
    assert not (tmp_path / "out").exists()
