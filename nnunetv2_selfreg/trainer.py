"""SelfReg as nnU-Net trainers: the three that are written here, and every other composed by name.

`nnUNetTrainerSelfReg`, `nnUNetTrainerSelfRegSCR` and `nnUNetTrainerSelfRegIFD` stand in place of the leading
`nnUNetTrainer` of any stock trainer's name: `nnUNetTrainerSelfReg_100epochs` is `nnUNetTrainer_100epochs` with SelfReg.
Such a class is an attribute of this module, made when it is first asked for, and pickles under its name.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import cache
from math import isfinite, nan
from pathlib import Path
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed as dist

from nnunetv2_selfreg.compat import (
    check_nnunet,
    compile_with_hooks,
    find_nnunet_trainer,
    find_variant,
    is_nnunets_own,
    local_logging,
    unwrapped,
)
from nnunetv2_selfreg.criterion import NonFinite, SelfRegCriterion
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.names import STOCK, base_name, root_name
from nnunetv2_selfreg.progress import epoch_line, plot_progress
from nnunetv2_selfreg.settings import SelfRegSettings, check_places, read_plans, resolve
from nnunetv2_selfreg.taps import StageTaps
from nnunetv2_selfreg.terms import BUILT_IN, IFD, SCR, SHARE, Term

CITATION = "Zhu et al., SelfReg-UNet: Self-Regularized UNet for Medical Image Segmentation, MICCAI 2024, pp. 601-611"

check_nnunet()


class nnUNetTrainerSelfReg(nnUNetTrainer):
    """nnU-Net's trainer with SelfReg's two losses; settings come from the plans' key `selfreg`.

    `_build_loss` is the only override that changes the training, the others check it and log what it does. The class is
    also the mixin that turns another trainer into a SelfReg trainer: put it before that trainer in the bases.

    Attributes:
        terms: What is added to nnU-Net's loss; a subclass may bring its own.
    """

    terms: Sequence[Term] = BUILT_IN
    _unknown: Set[str] = frozenset()  # what a checkpoint logged and nothing here does
    _ending: Set[type] = frozenset()  # bases that only end the name of a trainer that is made of another one

    @classmethod
    def selfreg_settings(cls, plans: Mapping[str, Any], configuration: str) -> SelfRegSettings:
        """The settings that a training with these plans uses.

        Args:
            plans: nnU-Net's plans.
            configuration: The configuration's name.

        Raises:
            SelfRegError: A setting is unknown or wrong, or stands where it would be ignored.
        """
        check_places(plans)
        return SelfRegSettings.from_plans(resolve(plans, configuration), cls.terms)

    def initialize(self) -> None:
        super().initialize()
        if not isinstance(self.loss, SelfRegCriterion):
            bases = " -> ".join(base.__name__ for base in type(self).__mro__ if "_build_loss" in vars(base))
            raise SelfRegError(
                f"SelfReg: the loss of {type(self).__name__} is a {type(self.loss).__name__} without SelfReg; put the "
                f"SelfReg trainer first in its bases (_build_loss is looked up in {bases})"
            )

    def _build_loss(self) -> SelfRegCriterion:
        settings = self.selfreg_settings(self.plans_manager.plans, self.configuration_name)
        if isinstance(self.loss, SelfRegCriterion):  # built anew during the training
            self.loss.taps.remove()
        network, compiled = unwrapped(self.network)
        if compiled:
            compile_with_hooks()
        images = torch.zeros(1, self.num_input_channels, *self.configuration_manager.patch_size, device=self.device)
        taps = StageTaps(network, settings, images)
        nnunets = [] if hasattr(self, "_logged") else local_logging(self.logger)
        if clash := [term.name for term in self.terms if term.name in nnunets]:
            raise SelfRegError(f"SelfReg: nnU-Net logs values called {', '.join(clash)} itself; rename the term")
        loss = super()._build_loss()
        criterion = SelfRegCriterion(loss, taps, settings, self.device, self.terms, compiled=compiled)
        self._logged = [*criterion.weights, SHARE] if criterion.weights else []
        self._align_logging()
        text = f"{settings}; {taps.stages}" if criterion.weights else "all weights are 0: nnU-Net's own training"
        self.print_to_log_file(f"SelfReg: {text}. Please cite {CITATION}.")
        return criterion

    def on_train_start(self) -> None:
        if self.local_rank == 0:
            self._check_earlier_folds()
        super().on_train_start()  # writes the plans into the model's folder

    def _check_earlier_folds(self) -> None:
        """Refuses settings other than those in the model's folder, unless nothing that was trained is left of it."""
        folder = Path(self.output_folder_base)
        trained = {path.parent for path in folder.glob("fold_*/checkpoint_*.pth")}
        if self.current_epoch == 0:  # this fold begins anew
            trained.discard(Path(self.output_folder))
        if trained and (folder / "plans.json").is_file():
            now = self.selfreg_settings(self.plans_manager.plans, self.configuration_name)
            try:
                earlier = self.selfreg_settings(read_plans(folder / "plans.json", patience=5), self.configuration_name)
            except SelfRegError as error:
                raise SelfRegError(
                    f"{folder / 'plans.json'}, of what is trained there already: {error}; give these plans another name"
                ) from None
            if earlier != now:
                raise SelfRegError(
                    f"SelfReg: {folder} was trained with {earlier}, and these plans say {now}; give other settings "
                    "plans of another name (nnUNetv2_selfreg plans -o), or remove that folder"
                )

    def on_train_epoch_start(self) -> None:
        super().on_train_epoch_start()
        self._check_loss()
        self.loss.taps.forget()  # what a forward pass outside of the training left, such as that of nnU-Net's plot

    def _check_loss(self) -> None:
        """Refuses a loss that was replaced since `initialize`."""
        if not isinstance(self.loss, SelfRegCriterion):
            raise SelfRegError(
                f"SelfReg: {type(self).__name__} replaced its loss by a {type(self.loss).__name__} without SelfReg; "
                "change what is inside of it instead: self.loss.stock, all of nnU-Net's loss"
            )

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        self._check_loss()
        super().on_train_epoch_end(train_outputs)
        non_finite, means = self.loss.non_finite(), self.loss.take_means()
        scales = self.grad_scaler is not None and self.grad_scaler.is_enabled()
        if non_finite is None and not scales:  # steps without terms, or a fault in nnU-Net's loss alone
            bad = next((number for number, output in enumerate(train_outputs) if not isfinite(output["loss"])), None)
            non_finite = None if bad is None else NonFinite([], bad, False, "the loss")
        if self.is_ddp:
            ranks: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(ranks, (non_finite, means))
            non_finite = max((found for found, _ in ranks if found), key=lambda found: found.every_step, default=None)
            means = {name: sum(rank[name] for _, rank in ranks) / len(ranks) for name in means}
        if non_finite is not None and (non_finite.every_step or not scales):
            # with fp16 a single bad step is no error: the scaler skips it and scales down
            raise RuntimeError(
                f"SelfReg: {non_finite.what} turned NaN or infinite in epoch {self.current_epoch}, iteration "
                f"{non_finite.iteration}{', first at ' * bool(non_finite.stages)}{', '.join(non_finite.stages)}; go on "
                "from the last checkpoint (--c) or train the stock trainer to see whether SelfReg is the cause"
            )
        if not self._logged:
            return
        weights = {term.name: self.loss.weights[term.name] for term in self.loss.terms}
        if not means:  # fewer training steps than `every`
            means = dict.fromkeys(["loss", *weights], nan)
        # sizes, as nnU-Net's loss passes through 0 on its way down (its Dice term is minus the Dice)
        added = sum(weight * abs(means[name]) for name, weight in weights.items())
        means[SHARE] = added / (means["loss"] + added)
        for name in self._logged:
            self.logger.log(name, means[name], self.current_epoch)
        self.print_to_log_file(epoch_line(means, weights, means[SHARE]))

    def on_epoch_end(self) -> None:
        logging = local_logging(self.logger)
        for name in self._unknown:  # of a term that was renamed or removed: nnU-Net's plot would wait for it
            if len(logging.get(name, ())) <= self.current_epoch:
                logging.pop(name, None)
        if missing := [name for name in self._logged if len(logging[name]) <= self.current_epoch]:
            self.print_to_log_file("SelfReg: an on_train_epoch_end left out super()'s: no curves, no check for NaN")
            for name in missing:
                self.logger.log(name, nan, self.current_epoch)
        super().on_epoch_end()
        if self.local_rank == 0 and self._logged:
            try:
                plot_progress(local_logging(self.logger), self.terms, self.output_folder)
            except SelfRegError as error:
                self.print_to_log_file(f"SelfReg: {error}; the training goes on")

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        if not self.was_initialized:  # as nnU-Net does next: from here on the logger knows what is logged
            self.initialize()
        known = set(local_logging(self.logger))
        super().load_checkpoint(filename_or_checkpoint)
        self._unknown = local_logging(self.logger).keys() - known
        self._align_logging()

    def _align_logging(self) -> None:
        """Makes each of our lists in nnU-Net's logger as long as the training so far; what was not logged is NaN."""
        logging = local_logging(self.logger)
        for name in {term.name: None for term in (*BUILT_IN, *self.terms)} | {SHARE: None}:
            known = logging.pop(name, [])[: self.current_epoch]
            if name in self._logged:
                logging[name] = known + [nan] * (self.current_epoch - len(known))


class nnUNetTrainerSelfRegSCR(nnUNetTrainerSelfReg):
    """Semantic consistency regularisation alone."""

    terms = (SCR,)


class nnUNetTrainerSelfRegIFD(nnUNetTrainerSelfReg):
    """Internal feature distillation alone."""

    terms = (IFD,)


def __getattr__(name: str) -> type[nnUNetTrainerSelfReg]:
    if root_name(name) is not None and (found := _made_by_name(name, os.environ.get("nnUNet_extTrainer"))):
        return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def find_trainer(name: str) -> type[nnUNetTrainer] | None:
    """The trainer of this name, ours, nnU-Net's or one in `nnUNet_extTrainer`; None when there is none."""
    if root_name(name):
        return globals().get(name) or _made_by_name(name, os.environ.get("nnUNet_extTrainer"))
    return find_nnunet_trainer(name)


def base_trainer(trainer: type[nnUNetTrainer]) -> type[nnUNetTrainer] | None:
    """The trainer that a SelfReg trainer adds SelfReg to, nnU-Net's or somebody's; None for one without SelfReg."""
    return next(_without_selfreg(trainer), None)


def stock_trainer(trainer: type[nnUNetTrainer]) -> type[nnUNetTrainer] | None:
    """nnU-Net's own trainer that a SelfReg trainer is made of, found everywhere; None for one without SelfReg."""
    return next(filter(is_nnunets_own, _without_selfreg(trainer)), None)


def _without_selfreg(trainer: type[nnUNetTrainer]) -> Iterator[type[nnUNetTrainer]]:
    """The bases of a SelfReg trainer that know nothing of SelfReg, nearest first."""
    if issubclass(trainer, nnUNetTrainerSelfReg):
        others = (base for base in trainer.__mro__ if base not in trainer._ending)
        yield from (base for base in others if not issubclass(base, nnUNetTrainerSelfReg))


looking_for: set[str] = set()  # names that are being searched; trainers/nnUNetTrainerSelfReg.py answers none of them
_made: dict[tuple[str, tuple[type, ...]], type[nnUNetTrainerSelfReg]] = {}


@cache
def _made_by_name(name: str, external: str | None) -> type[nnUNetTrainerSelfReg] | None:
    """The trainer of a name that begins as one of our three trainers' does; None if there is none.

    Args:
        name: The name.
        external: `nnUNet_extTrainer`, whose folders are searched as well.
    """
    root = str(root_name(name))
    plain = str(base_name(name))
    if name in looking_for:  # a module that the search imports builds on this name
        return _composed(name, globals()[root], find_variant(plain))
    looking_for.add(name)
    try:
        written: type[nnUNetTrainerSelfReg] | None = find_nnunet_trainer(name, everywhere=False)
        if written is not None:  # before what could be composed: nobody can know which names those are
            return written
        if stock := find_nnunet_trainer(plain, everywhere=False):
            return _composed(name, globals()[root], stock)
        # nnUNetTrainerSelfRegMine_5epochs is somebody's nnUNetTrainerSelfRegMine with nnUNetTrainer_5epochs
        parts = name.split("_")
        for count in range(len(parts) - 1, 0, -1):
            mine, ending = "_".join(parts[:count]), "_".join([STOCK, *parts[count:]])
            mixin = find_nnunet_trainer(mine, everywhere=False)
            if mixin is None or not issubclass(mixin, nnUNetTrainerSelfReg):
                continue
            if stock := find_nnunet_trainer(ending, everywhere=False):
                return _composed(name, mixin, stock, is_ending=True)
        return _composed(name, globals()[root], find_nnunet_trainer(plain))
    finally:
        looking_for.discard(name)


def _composed(
    name: str, mixin: type[nnUNetTrainerSelfReg], stock: type[nnUNetTrainer] | None, is_ending: bool = False
) -> type[nnUNetTrainerSelfReg] | None:
    """SelfReg before the stock trainer; an ending before the mixin, to have the last word, unless it hides a method."""
    if stock is None or issubclass(stock, nnUNetTrainerSelfReg):
        return None
    bases = mixin, stock
    content: dict[str, Any] = {"__module__": __name__, "__doc__": f"{stock.__name__} with {mixin.__name__}."}
    if is_ending:
        if not issubclass(mixin, stock) and not _methods(mixin) & _methods(stock):
            bases = stock, mixin
        if base_trainer(mixin) is not nnUNetTrainer:
            content["_ending"] = frozenset(stock.__mro__) - frozenset(mixin.__mro__)
    return _made.setdefault((name, bases), type(name, bases, content))


def _methods(trainer: type[nnUNetTrainer]) -> set[str]:
    """What a trainer changes of nnU-Net's but for its `__init__`."""
    changed = {key for base in trainer.__mro__ if base not in nnUNetTrainer.__mro__ for key in vars(base)}
    return {key for key in changed if not re.fullmatch("__.*__", key)}
