"""Every trainer that this nnU-Net ships, composed by name: it takes a step, or is refused as its stock trainer is."""

import importlib
import pkgutil
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from nnunetv2.training.nnUNetTrainer import variants
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from trainings import build_trainer

from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.taps import StageTaps
from nnunetv2_selfreg.trainer import nnUNetTrainerSelfReg

# Benchmarks refuse to run without CUDA, and Adan's optimizer is a package that nnU-Net does not depend on.
MAY_REFUSE = ("nnUNetTrainerBenchmark", "nnUNetTrainerAdan")


def stock_trainers() -> list[type]:
    modules = (
        importlib.import_module(found.name)
        for found in pkgutil.walk_packages(variants.__path__, f"{variants.__name__}.")
        if not found.ispkg
    )
    return [nnUNetTrainer] + [
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, nnUNetTrainer) and value.__module__ == module.__name__
    ]


STOCK = stock_trainers()


def test_none_is_missed():
    sources = [path.read_text() for path in Path(variants.__path__[0]).rglob("*.py")]
    names = [name for source in sources for name in re.findall(r"^class (\w+)", source, re.MULTILINE)]
    assert sorted(names) == sorted(stock.__name__ for stock in STOCK if stock is not nnUNetTrainer)
    assert len(names) > 50
    assert all(name.startswith("nnUNetTrainer") for name in names)


def refused(build: Callable, trainer: str | type) -> str | None:
    try:
        build(trainer)
    except (AssertionError, RuntimeError) as refusal:
        return repr(refusal)
    return None


@pytest.mark.parametrize("stock", STOCK, ids=lambda stock: stock.__name__)
def test_composed_by_name(stock, dataset, tmp_path):
    def build(trainer: str | type):
        built = build_trainer(tmp_path, dataset.raw.name, "2d", trainer, "Small")
        built.initialize()
        return built

    name = "nnUNetTrainerSelfReg" + stock.__name__.removeprefix("nnUNetTrainer")
    if refusal := refused(build, stock):
        assert stock.__name__.startswith(MAY_REFUSE), refusal
        assert refused(build, name) == refusal
        return
    trainer = build(name)
    assert isinstance(trainer, stock)
    seen = []
    trainer.loss.register_forward_hook(lambda criterion, inputs, loss: seen.append(inputs))
    trainer.network.train()
    total = trainer.train_step(random_batch(trainer))["loss"]
    ((output, target),) = seen
    own = super(nnUNetTrainerSelfReg, trainer)._build_loss()(output, target).item()
    means = trainer.loss.take_means()
    assert min(means["scr"], means["ifd"]) > 0
    assert total == pytest.approx(own + 0.015 * (means["scr"] + means["ifd"]), rel=1e-5)
    assert abs(total - own) > 1e-4 * abs(own)
    gradients = [parameter.grad for parameter in trainer.network.parameters() if parameter.grad is not None]
    assert gradients
    assert all(gradient.isfinite().all() for gradient in gradients)


def random_batch(trainer) -> dict:
    torch.manual_seed(0)
    size = trainer.configuration_manager.patch_size
    classes = len(trainer.label_manager.all_labels)
    labels = torch.randint(classes, (trainer.batch_size, 1, *size)).float()
    scales = trainer._get_deep_supervision_scales()
    return {
        "data": torch.randn(trainer.batch_size, trainer.num_input_channels, *size),
        "target": labels
        if scales is None
        else [torch.nn.functional.interpolate(labels, scale_factor=scale, mode="nearest-exact") for scale in scales],
    }


class WithoutStages(nnUNetTrainerSelfReg):
    @staticmethod
    def build_network_architecture(plans_manager, *arguments):
        return torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3, padding=1))


def test_a_network_without_stages_is_refused_before_the_training(dataset, tmp_path):
    trainer = build_trainer(tmp_path, dataset.raw.name, "2d", WithoutStages, "Small")
    with pytest.raises(SelfRegError, match=r"^SelfReg: Sequential has no encoder\.stages and decoder\.stages; name"):
        trainer.run_training()
    (written,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert written.name.startswith("training_log_")


def test_a_transformer_without_stages_is_refused():
    try:
        from dynamic_network_architectures.architectures.primus import Primus
    except (ImportError, RuntimeError) as failure:  # the latter is torchvision's when it is not made for this torch
        pytest.skip(f"Primus cannot be imported: {failure}")
    network = Primus(1, 24, (8, 8, 8), 3, eva_depth=1, eva_numheads=2, input_shape=(16, 16, 16))
    with pytest.raises(SelfRegError, match=r"^SelfReg: Primus has one resolution and no decoder stages .*; name, say"):
        StageTaps(network)
