"""SelfReg as nnU-Net trainers: the three that are written here, and every other composed by name.

`nnUNetTrainerSelfReg`, `nnUNetTrainerSelfRegSCR` and `nnUNetTrainerSelfRegIFD` stand in place of the leading
`nnUNetTrainer` of any stock trainer's name: `nnUNetTrainerSelfReg_100epochs` is `nnUNetTrainer_100epochs` with SelfReg.
Such a class is an attribute of this module, made when it is first asked for, and pickles under its name.
"""

import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from math import nan
from os.path import join
from typing import Any

import nnunetv2
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import distributed as dist
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.names import ROOTS, root_name, stock_name
from nnunetv2_selfreg.progress import CURVES, epoch_line, plot_progress
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.stages import StageTaps

CITATION = "Zhu et al., SelfReg-UNet: Self-Regularized UNet for Medical Image Segmentation, MICCAI 2024, pp. 601-611"


if tuple(int(number) for number in version("nnunetv2").split(".")[:2]) < (2, 6):
    raise SelfRegError(f"SelfReg: nnU-Net {version('nnunetv2')} is not supported; pip install 'nnunetv2>=2.6'")


class nnUNetTrainerSelfReg(nnUNetTrainer):
    """nnU-Net's trainer with SelfReg's two losses; settings come from the plans' key `selfreg`.

    `_build_loss` is the only override that changes the training, the others log what it does. The class is also the
    mixin that turns another trainer into a SelfReg trainer: put it before that trainer in the bases.

    Attributes:
        fixed_settings: Settings that this trainer has, whatever the plans say.
    """

    fixed_settings: Mapping[str, Any] = {}

    def _build_loss(self) -> SelfRegCriterion:
        settings = SelfRegSettings.from_plans(self.configuration_manager.configuration)
        settings = replace(settings, **self.fixed_settings)
        taps = StageTaps(_unwrapped(self.network), settings.taps, settings.encoder_stages, settings.decoder_stages)
        criterion = SelfRegCriterion(super()._build_loss(), taps, settings, self.device)
        self._logged = [*criterion.weights, "selfreg_share"] if criterion.weights else []
        self._align_logging()
        about = f"{settings}; {taps}" if criterion.weights else "both weights are 0, so this is nnU-Net's own training"
        self.print_to_log_file(f"SelfReg: {about}. Please cite {CITATION}.")
        return criterion

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        super().on_train_epoch_end(train_outputs)
        non_finite, means = self.loss.non_finite(), self.loss.take_means()
        if self.is_ddp:
            ranks: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(ranks, (non_finite, means))
            non_finite = next((found for found, _ in ranks if found is not None), None)
            means = {name: sum(rank[name] for _, rank in ranks) / len(ranks) for name in means}
        if non_finite is not None and (self.grad_scaler is None or non_finite.every_step):
            # with AMP a single bad step is no error: the scaler skips it and scales down
            raise RuntimeError(
                f"SelfReg: feature maps turned NaN or infinite in epoch {self.current_epoch}, iteration "
                f"{non_finite.iteration}, first at {', '.join(non_finite.stages)}; go on from the last checkpoint "
                "(--c) or train the stock trainer to see whether SelfReg is the cause"
            )
        if not self._logged:
            return
        added = sum(weight * means[name] for name, weight in self.loss.weights.items())
        # sizes, as nnU-Net's loss passes through 0 on its way down (its Dice term is minus the Dice)
        means["selfreg_share"] = added / (means["loss"] + added)
        for name in self._logged:
            self.logger.log(name, means[name], self.current_epoch)
        self.print_to_log_file(epoch_line(means, self.loss.weights, means["selfreg_share"]))

    def on_epoch_end(self) -> None:
        super().on_epoch_end()
        if self.local_rank == 0 and self._logged:
            try:
                plot_progress(_local_logging(self.logger), self.output_folder)
            except OSError as error:
                self.print_to_log_file(
                    f"SelfReg: selfreg.png cannot be written, {error.strerror}; the training goes on"
                )

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        super().load_checkpoint(filename_or_checkpoint)
        self._align_logging()

    def _align_logging(self) -> None:
        """Gives nnU-Net's logger one value per epoch of each of our names, not a number where there was none."""
        logging = _local_logging(self.logger)
        for name in CURVES:
            known = logging.pop(name, [])[: self.current_epoch]
            if name in self._logged:
                logging[name] = known + [nan] * (self.current_epoch - len(known))


class nnUNetTrainerSelfRegSCR(nnUNetTrainerSelfReg):
    """Semantic consistency regularisation alone."""

    fixed_settings = ROOTS["nnUNetTrainerSelfRegSCR"]


class nnUNetTrainerSelfRegIFD(nnUNetTrainerSelfReg):
    """Internal feature distillation alone."""

    fixed_settings = ROOTS["nnUNetTrainerSelfRegIFD"]


def __getattr__(name: str) -> type[nnUNetTrainerSelfReg]:
    root = root_name(name)
    if root is not None:
        return _composed(name, globals()[root])
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find_trainer(name: str) -> type[nnUNetTrainer] | None:
    """The trainer of this name, SelfReg's or stock; None when there is none."""
    return getattr(sys.modules[__name__], name, None) if stock_name(name) else _find_stock_trainer(name)


@cache
def _composed(name: str, root: type[nnUNetTrainerSelfReg]) -> type[nnUNetTrainerSelfReg]:
    stock = _find_stock_trainer(str(stock_name(name)))
    if stock is None or issubclass(stock, nnUNetTrainerSelfReg):
        raise AttributeError(f"there is no trainer {stock_name(name)} to make {name} of")
    return type(name, (root, stock), {"__module__": __name__, "__doc__": f"{stock.__name__} with {root.__name__}."})


def _find_stock_trainer(name: str) -> type[nnUNetTrainer] | None:
    if name == nnUNetTrainer.__name__:
        return nnUNetTrainer
    folder, module = join(nnunetv2.__path__[0], "training", "nnUNetTrainer"), "nnunetv2.training.nnUNetTrainer"
    # nnU-Net's own search reads the other sub-packages first, which costs seconds of imports
    return recursive_find_python_class(
        join(folder, "variants"), name, f"{module}.variants"
    ) or recursive_find_python_class(folder, name, module)


def _unwrapped(network: nn.Module) -> nn.Module:
    if isinstance(network, DistributedDataParallel):
        network = network.module
    if isinstance(network, OptimizedModule):
        network = network._orig_mod
    return network


def _local_logging(logger: Any) -> dict[str, list[Any]]:
    """The values nnU-Net logs, by name; until nnU-Net 2.6 the logger itself held them."""
    return getattr(logger, "local_logger", logger).my_fantastic_logging
