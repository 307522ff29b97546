"""One short training in each configuration; the cascade has a file of its own."""

import json

import pytest
from commands import folder
from trainings import cascade_plans, edit_plans, narrow, plan_and_preprocess, short_training, write_phantoms

ANISOTROPIC = "Dataset930_Anisotropic"


@pytest.fixture(scope="session")
def anisotropic() -> str:
    """Slices of 8 to 10 mm with pixels of less than 2 mm; plans `Narrow`."""
    write_phantoms(ANISOTROPIC, {"background": 0, "RV": 1, "myocardium": 2, "LV": 3})
    plan_and_preprocess([ANISOTROPIC], "3d_fullres")
    edit_plans(ANISOTROPIC, "nnUNetPlans", "Narrow", lambda configurations: narrow(configurations["3d_fullres"]))
    return ANISOTROPIC


@pytest.mark.parametrize(("configuration", "dimensions"), [("2d", 2), ("3d_fullres", 3)])
def test_2d_and_3d(configuration, dimensions, dataset, tmp_path):
    trainer = short_training(tmp_path, dataset.raw.name, configuration, "Small")
    assert len(trainer.configuration_manager.patch_size) == dimensions


@pytest.mark.longer
def test_low_resolution(dataset, tmp_path):
    trainer = short_training(tmp_path, dataset.raw.name, "3d_lowres", cascade_plans(dataset))
    full = trainer.plans_manager.get_configuration("3d_fullres")
    assert max(trainer.configuration_manager.spacing) >= max(full.spacing)
    assert min(trainer.configuration_manager.spacing) == pytest.approx(2 * min(full.spacing))
    assert trainer.preprocessed_dataset_folder.endswith("Cascade_3d_lowres")


@pytest.mark.longer
@pytest.mark.parametrize(("trainer_name", "dummy"), [("", True), ("_noDummy2DDA", False)])
def test_anisotropic_patches_and_strides(trainer_name, dummy, anisotropic, tmp_path):
    trainer = short_training(tmp_path, anisotropic, "3d_fullres", "Narrow", f"nnUNetTrainerSelfReg{trainer_name}")
    planned = json.loads((folder("preprocessed") / anisotropic / "nnUNetPlans.json").read_text())
    architecture = planned["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    assert architecture["strides"][1] == [1, 2, 2]
    assert trainer.configuration_manager.pool_op_kernel_sizes == architecture["strides"]
    _, does_dummy, _, _ = trainer.configure_rotation_dummyDA_mirroring_and_inital_patch_size()
    assert does_dummy is dummy
