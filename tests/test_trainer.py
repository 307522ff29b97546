"""Trainers by name: found by nnU-Net's own search, composed, picklable, and out of everybody else's way."""

import importlib.util
import inspect
import pickle
import pkgutil
import re
import subprocess
import sys
from importlib.metadata import files
from os.path import join
from pathlib import Path

import nnunetv2
import pytest
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class

from nnunetv2_selfreg import compat, trainer
from nnunetv2_selfreg.errors import SelfRegError

TRAINER_FOLDER = join(nnunetv2.__path__[0], "training", "nnUNetTrainer")
NAMES = [
    "nnUNetTrainerSelfReg",
    "nnUNetTrainerSelfRegSCR",
    "nnUNetTrainerSelfRegIFD",
    "nnUNetTrainerSelfReg_100epochs",
    "nnUNetTrainerSelfRegIFD_5epochs",
    "nnUNetTrainerSelfRegNoMirroring",
    "nnUNetTrainerSelfRegDA5",
    "nnUNetTrainerSelfRegSCRNoDeepSupervision",
]


def find(name):
    return recursive_find_python_class(TRAINER_FOLDER, name, "nnunetv2.training.nnUNetTrainer")


@pytest.mark.parametrize("name", NAMES)
def test_nnunets_search_finds_the_trainer(name):
    found = find(name)
    assert found.__name__ == name
    assert issubclass(found, nnUNetTrainer)
    assert find(name) is found
    assert list(inspect.signature(found).parameters) == ["plans", "configuration", "fold", "dataset_json", "device"]


@pytest.mark.parametrize("name", NAMES[3:5])
def test_a_trainer_pickles_into_a_fresh_process(name):
    program = "import pickle, sys; print(pickle.loads(sys.stdin.buffer.read()).__name__)"
    pickled = pickle.dumps(getattr(trainer, name))
    result = subprocess.run([sys.executable, "-c", program], input=pickled, capture_output=True, check=True)
    assert result.stdout.decode().strip().splitlines()[-1] == name


def test_a_composed_trainer_is_selfreg_before_the_stock_trainer():
    names = [cls.__name__ for cls in trainer.nnUNetTrainerSelfRegSCR_100epochs.__mro__]
    assert names[:5] == [
        "nnUNetTrainerSelfRegSCR_100epochs",
        "nnUNetTrainerSelfRegSCR",
        "nnUNetTrainerSelfReg",
        "nnUNetTrainer_100epochs",
        "nnUNetTrainer",
    ]


def test_only_the_loss_and_the_logging_are_overridden():
    public = {name for name in vars(trainer.nnUNetTrainerSelfReg) if not name.startswith("__")}
    own = {name for name in public if not hasattr(nnUNetTrainer, name)}
    epochs = {"on_train_epoch_start", "on_train_epoch_end", "on_epoch_end"}
    assert public - own == {"initialize", "_build_loss", "on_train_start", *epochs, "load_checkpoint"}
    checks = {"_check_earlier_folds", "_check_loss"}
    assert own <= {"terms", "selfreg_settings", "_align_logging", "_unknown", "_ending", *checks}


@pytest.mark.parametrize(
    "name",
    ["nnUNetTrainerNope", "nnUNetTrainer_100epochs", "nnUNetTrainerSelfRe", "__path__", "nnUNetTrainerSelfRegSelfReg"],
)
def test_names_that_are_not_ours_are_left_alone(name):
    assert not hasattr(trainer, name)


def test_looking_up_another_trainer_does_not_import_the_library():
    program = (
        "import importlib, sys\n"
        "module = importlib.import_module('nnunetv2.training.nnUNetTrainer.nnUNetTrainerSelfReg')\n"
        "assert not hasattr(module, 'nnUNetTrainer_100epochs')\n"
        "print([name for name in sys.modules if name.startswith('nnunetv2_selfreg')])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    assert result.stdout.strip().splitlines()[-1] == "[]"


def test_an_older_nnunet_is_refused_in_one_line():
    program = (
        "import importlib.metadata\n"
        "version = importlib.metadata.version\n"
        "importlib.metadata.version = lambda name: '2.5.1' if name == 'nnunetv2' else version(name)\n"
        "from nnunetv2.training.nnUNetTrainer import nnUNetTrainerSelfReg as module\n"
        "hasattr(module, 'nnUNetTrainerSelfReg')"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, text=True)
    message = "SelfReg: nnU-Net 2.5.1 is not supported; pip install 'nnunetv2>=2.6.0'"
    assert result.stderr.strip().splitlines()[-1].endswith(message)


def test_a_name_without_a_stock_trainer_is_not_found():
    """As nnU-Net's search goes on to other folders after it, it must be an AttributeError and nothing else."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "find_nnunet_trainer", lambda name, everywhere=True: None)
        with pytest.raises(AttributeError, match="no attribute 'nnUNetTrainerSelfReg_7epochs'"):
            getattr(trainer, "nnUNetTrainerSelfReg_7epochs")  # noqa: B009


@pytest.mark.skipif(
    importlib.util.find_spec("nnunetv2.utilities.find_objects") is None,
    reason="nnUNet_extTrainer came with nnU-Net 2.8",
)
def test_the_second_way_through_ext_trainer():
    folder = str(Path(__file__).parents[1] / "trainers")
    for _ in range(2):  # the searched module is dropped from sys.modules in between
        found = recursive_find_python_class(
            folder, "nnUNetTrainerSelfReg_100epochs", None, base_folder=folder, cleanup_imports_from_base_folder=True
        )
        assert found is trainer.nnUNetTrainerSelfReg_100epochs
    assert pickle.loads(pickle.dumps(found)) is found


@pytest.mark.parametrize(
    ("version", "supported"),
    [("2.6.0", True), ("2.6", True), ("2.9rc1", True), ("2.10.0.dev3+g1234", True), ("3.0", True), ("2.6.0rc1", True),
     ("2.5.2", False), ("1.7.1", False), ("2.5.9.post1", False)],
)  # fmt: skip
def test_any_version_number_is_understood(version, supported):
    if supported:
        compat.check_nnunet(version)
    else:
        with pytest.raises(SelfRegError, match=rf"nnU-Net {re.escape(version)} is not supported"):
            compat.check_nnunet(version)


EXTERNAL = """
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.training.nnUNetTrainer.variants.loss.nnUNetTrainerCELoss import nnUNetTrainerCELoss
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg, nnUNetTrainerSelfReg_10epochs

class nnUNetTrainerTheirs(nnUNetTrainerCELoss): pass
class nnUNetTrainerTheirs_4steps(nnUNetTrainerTheirs): pass
class nnUNetTrainerMine(nnUNetTrainerSelfReg, nnUNetTrainerTheirs): pass
class nnUNetTrainerSelfRegMine(nnUNetTrainerSelfReg): pass
class nnUNetTrainerSelfRegSlow(nnUNetTrainerSelfReg):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 300
class nnUNetTrainerTheirSlow(nnUNetTrainer):
    def __init__(self, plans, configuration, fold, dataset_json, device):
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.num_epochs = 200
class nnUNetTrainer_theirs(nnUNetTrainerTheirSlow): pass
class nnUNetTrainer_ce(nnUNetTrainerCELoss): pass
class nnUNetTrainerSelfRegLoss(nnUNetTrainerSelfReg, nnUNetTrainerCELoss): pass
class nnUNetTrainerSelfRegTen(nnUNetTrainerSelfReg_10epochs): pass
class nnUNetTrainerSelfRegLong_10epochs(nnUNetTrainerSelfReg_10epochs): pass
class nnUNetTrainerSelfRegDiceLoss(nnUNetTrainerSelfReg): pass
"""


@pytest.fixture
def external(tmp_path, monkeypatch):
    if not hasattr(importlib.import_module("nnunetv2.paths"), "nnUNet_extTrainer"):
        pytest.skip("nnUNet_extTrainer came with nnU-Net 2.8")
    (tmp_path / "my_trainers.py").write_text(EXTERNAL)
    ours = Path(__file__).parents[1] / "trainers"  # for editable nnU-Nets; must not ask itself for ever
    monkeypatch.setenv("nnUNet_extTrainer", f"{ours}:{tmp_path}")


@pytest.mark.parametrize(
    ("name", "base", "stock"),
    [
        ("nnUNetTrainerMine", "nnUNetTrainerTheirs", "nnUNetTrainerCELoss"),
        ("nnUNetTrainerSelfRegMine", "nnUNetTrainer", "nnUNetTrainer"),
        ("nnUNetTrainerSelfRegLong_10epochs", "nnUNetTrainer_10epochs", "nnUNetTrainer_10epochs"),
        ("nnUNetTrainerSelfRegMine_5epochs", "nnUNetTrainer_5epochs", "nnUNetTrainer_5epochs"),
        ("nnUNetTrainerSelfRegLoss_5epochs", "nnUNetTrainerCELoss", "nnUNetTrainerCELoss"),
        ("nnUNetTrainerSelfRegTen_10epochs", "nnUNetTrainer_10epochs", "nnUNetTrainer_10epochs"),
        # SelfReg in a trainer without it that somebody wrote
        ("nnUNetTrainerSelfRegTheirs", "nnUNetTrainerTheirs", "nnUNetTrainerCELoss"),
        ("nnUNetTrainerSelfRegTheirSlow_1epoch", "nnUNetTrainerTheirSlow", "nnUNetTrainer"),
        ("nnUNetTrainerSelfRegTheirs_4steps", "nnUNetTrainerTheirs_4steps", "nnUNetTrainerCELoss"),
        ("nnUNetTrainerSelfReg_100epochs", "nnUNetTrainer_100epochs", "nnUNetTrainer_100epochs"),
        # of a name that could be composed; and what the module itself builds on
        ("nnUNetTrainerSelfRegDiceLoss", "nnUNetTrainer", "nnUNetTrainer"),
        ("nnUNetTrainerSelfReg_10epochs", "nnUNetTrainer_10epochs", "nnUNetTrainer_10epochs"),
        ("nnUNetTrainerTheirs", None, None),
        ("nnUNetTrainer", None, None),
    ],
)
def test_a_trainer_that_somebody_wrote_is_found_with_what_it_is_made_of(external, name, base, stock):
    found = trainer.find_trainer(name)
    assert found.__name__ == name
    assert getattr(trainer.base_trainer(found), "__name__", None) == base
    assert getattr(trainer.stock_trainer(found), "__name__", None) == stock


def test_an_ending_has_the_last_word(external, monkeypatch):
    """Over what another trainer sets in its __init__, somebody's or nnU-Net's, with SelfReg or without."""
    monkeypatch.setattr(nnUNetTrainer, "__init__", lambda *_: None)
    made = {
        "nnUNetTrainerSelfRegSlow": 300,
        "nnUNetTrainerSelfRegSlow_5epochs": 5,
        "nnUNetTrainerSelfRegSlow_250epochs_NoMirroring": 250,
        "nnUNetTrainerSelfRegTheirSlow": 200,
        "nnUNetTrainerSelfRegTheirSlow_1epoch": 1,
        "nnUNetTrainerSelfReg_theirs_100epochs": 100,
    }
    for name, epochs in made.items():
        assert trainer.find_trainer(name)(*[None] * 5).num_epochs == epochs, name


def test_an_ending_hides_no_method(external):
    """SelfReg adds its terms to an ending's loss, too."""
    found = trainer.find_trainer("nnUNetTrainerSelfRegSlow_ce")
    assert found.__mro__[1].__name__ == "nnUNetTrainerSelfRegSlow"
    assert found._build_loss is trainer.nnUNetTrainerSelfReg._build_loss
    assert trainer.base_trainer(found).__name__ == "nnUNetTrainer_ce"


def test_a_selfreg_trainer_among_nnunets_variants_is_found(monkeypatch):
    mine = type("nnUNetTrainerSelfRegAmong", (trainer.nnUNetTrainerSelfReg,), {})
    find = compat.find_variant
    monkeypatch.setattr(compat, "find_variant", lambda name: mine if name == mine.__name__ else find(name))
    assert trainer.find_trainer(mine.__name__) is mine
    assert issubclass(trainer.find_trainer("nnUNetTrainerSelfRegAmong_5epochs"), mine)


@pytest.mark.parametrize("place", ["my_trainer", "variants.my_trainer"])
def test_a_trainer_in_nnunets_folder_that_is_not_nnunets_is_no_stock_trainer(place):
    """Where people copied their trainers before nnU-Net 2.8: `find_trainer` imports them as modules of nnU-Net."""
    if place.startswith("variants") and not any(
        path.match("nnUNetTrainer/nnUNetTrainer.py") for path in files("nnunetv2")
    ):
        pytest.skip("an editable checkout does not say which modules are its own")
    module = f"nnunetv2.training.nnUNetTrainer.{place}"
    theirs = type("nnUNetTrainerTheirs", (nnUNetTrainer,), {"__module__": module})
    found = type("nnUNetTrainerSelfRegTheirs", (trainer.nnUNetTrainerSelfReg, theirs), {})
    assert (trainer.base_trainer(found), trainer.stock_trainer(found)) == (theirs, nnUNetTrainer)


def test_nnunets_own_search_finds_a_selfreg_trainer_that_somebody_wrote(external):
    from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name

    for name in ("nnUNetTrainerSelfRegMine", "nnUNetTrainerSelfRegLong_10epochs", "nnUNetTrainerSelfRegMine_5epochs"):
        assert recursive_find_trainer_class_by_name(name).__name__ == name
    written = recursive_find_trainer_class_by_name("nnUNetTrainerSelfRegDiceLoss")
    assert written.__module__ == "my_trainers"  # not the one that could be composed
    assert trainer.find_trainer("nnUNetTrainerSelfRegTen").__base__ is trainer.nnUNetTrainerSelfReg_10epochs


def test_a_trainer_in_nnunets_own_folder_is_found(monkeypatch, tmp_path):
    """Where nnU-Net before 2.8 looks for what somebody wrote; before its variants, of which people put copies there."""
    (tmp_path / "mine.py").write_text(f"{EXTERNAL}\nclass nnUNetTrainer_5epochs(nnUNetTrainerTheirSlow): pass\n")
    folder = importlib.import_module("nnunetv2.training.nnUNetTrainer").__path__
    real = pkgutil.iter_modules
    mine = pkgutil.ModuleInfo(None, "mine", False)
    monkeypatch.setattr("pkgutil.iter_modules", lambda path: [*real(path), *[mine] * (path == [TRAINER_FOLDER])])
    folder.append(str(tmp_path))
    trainer._made_by_name.cache_clear()
    try:
        assert trainer.find_trainer("nnUNetTrainerSelfRegMine").__name__ == "nnUNetTrainerSelfRegMine"
        theirs = trainer.find_trainer("nnUNetTrainer_5epochs")
        assert theirs.__module__ == "nnunetv2.training.nnUNetTrainer.mine"
        assert trainer.base_trainer(trainer.find_trainer("nnUNetTrainerSelfReg_5epochs")) is theirs
    finally:
        folder.remove(str(tmp_path))
        trainer._made_by_name.cache_clear()


def test_a_trainer_that_breaks_on_its_import_is_not_taken_for_none(monkeypatch, tmp_path):
    if not hasattr(importlib.import_module("nnunetv2.paths"), "nnUNet_extTrainer"):
        pytest.skip("nnUNet_extTrainer came with nnU-Net 2.8")
    (tmp_path / "broken.py").write_text("import math; math.gone")
    monkeypatch.setenv("nnUNet_extTrainer", str(tmp_path))
    with pytest.raises(AttributeError, match="module 'math' has no attribute 'gone'"):
        trainer.find_trainer("nnUNetTrainerSelfRegBroken")


def test_selfreg_with_one_term_has_that_term_whatever_others_there_are():
    assert [term.name for term in trainer.nnUNetTrainerSelfRegSCR_5epochs.terms] == ["scr"]
    assert [term.name for term in trainer.nnUNetTrainerSelfRegIFD.terms] == ["ifd"]
