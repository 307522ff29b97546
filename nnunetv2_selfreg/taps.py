"""Taps on a network's stages: forward hooks that keep each stage's feature map until the loss takes it."""

from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from nnunetv2_selfreg.anchors import Anchor
from nnunetv2_selfreg.compat import in_backward
from nnunetv2_selfreg.errors import SelfRegError
from nnunetv2_selfreg.layouts import Layout, Trial
from nnunetv2_selfreg.networks import Modules, Stages, find_module, first_block, known_stages, without_stages
from nnunetv2_selfreg.settings import STAGES, SelfRegSettings

FIRST_BLOCK = " first block"  # behind the name of its stage
# why a stage may give no map
NO_MAP = "skipped by the forward pass, in evaluation mode, or checkpointed without use_reentrant=False"


class ChosenStages(NamedTuple):
    """The modules to tap, by name, in the order of the forward pass.

    Attributes:
        encoder: The encoder's students.
        decoder: The decoder's students.
        teacher: The one teacher.
    """

    encoder: Modules
    decoder: Modules
    teacher: Modules

    def __str__(self) -> str:
        """The stages with their channels, in the words of the training log."""
        return "; ".join(
            f"{title} {', '.join(_with_channels(name, module) for name, module in modules.items())}"
            for title, modules in (("students", self.encoder | self.decoder), ("teacher", self.teacher))
        )


class StageFeatures(NamedTuple):
    """The feature maps of one training step, each `(B, C, *spatial)`, detached, in the order of the forward pass.

    Attributes:
        encoder: The encoder's students.
        decoder: The decoder's students.
        teacher: The teacher's output.
        anchors: Where the students get their terms' gradient, the encoder's and then the decoder's.
        links: What laying these anchors gave, for `anchors.weighted`.
    """

    encoder: list[Tensor]
    decoder: list[Tensor]
    teacher: Tensor
    anchors: list[Anchor]
    links: list[Tensor]


class StageTaps:
    """Forward hooks on the stages of a network that the settings choose.

    A tap fills only while the network trains (training mode, gradients on) and is emptied by `take`. The network gets
    no module, parameter or state key. Attach before the first forward pass: `torch.compile` ignores later hooks.

    Args:
        network: The network itself, not wrapped by compile or DDP.
        settings: Which stages are students.
        images: `(1, channels, *spatial)`, as large as in the training, for one forward pass that shows how the stages
            lay out their maps. Without it each must give a map `(B, C, *spatial)`, which is not checked.

    Attributes:
        stages: The tapped modules.

    Raises:
        SelfRegError: The network has no such stages or blocks, no student is left, or a stage gives no map.
    """

    def __init__(
        self, network: nn.Module, settings: SelfRegSettings | None = None, images: Tensor | None = None
    ) -> None:
        self.stages = choose_students(network, settings or SelfRegSettings())
        modules = self.stages.encoder | self.stages.decoder | self.stages.teacher
        self._layouts = dict.fromkeys(modules, Layout())
        if images is not None:
            self._layouts = read_layouts(network, modules, images)
            in_order = ({name: part[name] for name in self._layouts if name in part} for part in self.stages)
            self.stages = ChosenStages._make(in_order)
        self._students = self.stages.encoder | self.stages.decoder
        self._anchors = {name: Anchor() for name in self._students}
        self.forget()
        self._handles = [
            module.register_forward_hook(partial(self._keep, name))
            for name, module in (self._students | self.stages.teacher).items()
        ]

    def take(self) -> StageFeatures | None:
        """Hands over the maps of the last training forward pass and leaves the taps empty.

        Returns:
            The maps, or None when no training forward pass came since the last call.

        Raises:
            SelfRegError: Some stages gave no map, or one gave several.
        """
        features, links, repeated, versions = self._features, self._links, self._repeated, self._versions
        self.forget()
        if not features:
            return None
        if repeated:
            raise SelfRegError(
                f"SelfReg: {', '.join(sorted(repeated))} gave more than one feature map before the loss was computed; "
                "compute the loss after each forward pass, or train without SelfReg"
            )
        if missing := [name for name in (*self._students, *self.stages.teacher) if name not in features]:
            raise SelfRegError(
                f"SelfReg: {', '.join(missing)} gave no feature map in a training step ({NO_MAP}); "
                "name other students or another teacher, or train without SelfReg"
            )
        if changed := [name for name, version in versions.items() if features[name]._version != version]:
            raise SelfRegError(
                f"SelfReg: a later layer writes into the output of {', '.join(changed)} in training; "
                "name that layer, or a module around both"
            )
        return StageFeatures(
            encoder=[features[name] for name in self.stages.encoder],
            decoder=[features[name] for name in self.stages.decoder],
            teacher=features[next(iter(self.stages.teacher))],
            anchors=list(self._anchors.values()),
            links=[links[name] for name in self._students],
        )

    def remove(self) -> None:
        """Takes the hooks off the network and drops what they hold."""
        for handle in self._handles:
            handle.remove()
        self.forget()

    def forget(self) -> None:
        """Drops what forward passes left that no loss has taken, and losses that a backward pass did not get to."""
        self._features: dict[str, Tensor] = {}
        self._links: dict[str, Tensor] = {}
        self._repeated: set[str] = set()
        self._versions: dict[str, int] = {}
        for anchor in self._anchors.values():
            anchor.losses = []

    def _keep(self, name: str, module: nn.Module, inputs: Any, output: Tensor) -> Tensor | None:
        """The hook: keeps the module's map, and lets it go on through its anchor."""
        if not (module.training and torch.is_grad_enabled()):
            return None
        layout = self._layouts[name]
        feature, link = layout.to_map(output), None
        if name in self._students:
            feature, link = self._anchors[name].lay(feature)
            output = layout.from_map(feature)
        if not torch.compiler.is_compiling() and in_backward():
            # activation checkpointing runs the forward pass again, anchor and all; the map was kept before
            return output
        if name in self._features:
            self._repeated.add(name)
        self._features[name] = feature.detach()
        if not torch.compiler.is_compiling():
            self._versions[name] = feature._version
        if link is not None:
            self._links[name] = link
        return output


def choose_students(network: nn.Module, settings: SelfRegSettings) -> ChosenStages:
    """Chooses students and teacher; the network is not changed.

    Args:
        network: A network whose stages are known, or any other if the settings name its modules.
        settings: Which modules are students and teacher, and whether the students' first blocks are students, too.

    Raises:
        SelfRegError: The network has no such stages, modules or blocks, or no student is left.
    """
    known = known_stages(network)
    if settings.teacher is not None:
        teacher, decoder = {settings.teacher: find_module(network, "teacher", settings.teacher)}, known.decoder
    elif known.decoder:
        *names, last = known.decoder
        teacher, decoder = {last: known.decoder[last]}, {name: known.decoder[name] for name in names}
    else:
        raise SelfRegError(without_stages(network))
    default = range(1, len(known.encoder)), range(len(known.decoder) - 1)
    students: list[Modules] = []
    for name, stages, all_but_one in zip(STAGES, (known.encoder, decoder), default, strict=True):
        chosen = getattr(settings, name)
        if not known.encoder and (chosen is None or any(type(stage) is int for stage in chosen)):
            raise SelfRegError(without_stages(network))
        modules = _named(network, name, stages, all_but_one if chosen is None else chosen)
        students.append(_with_first_blocks(modules, known) if settings.taps == "first_and_last" else modules)
    chosen_stages = ChosenStages(students[0], students[1], teacher)
    names_of: dict[nn.Module, str] = {}
    for name, module in [pair for part in chosen_stages for pair in part.items()]:
        if module in names_of:
            twice = f"{name} is named twice" if name == names_of[module] else f"{names_of[module]} and {name} are one"
            raise SelfRegError(f"SelfReg: {twice}; name each student once, and not the teacher among them")
        names_of[module] = name
    if not any(students):
        raise SelfRegError(f"SelfReg: no stage of {type(network).__name__} is left as a student; name one in the plans")
    return chosen_stages


def read_layouts(network: nn.Module, modules: Modules, images: Tensor) -> dict[str, Layout]:
    """How modules lay out their maps, found out by running the network once, in the order of their calls.

    Args:
        network: The network; it stays as it was.
        modules: Modules of it, by name.
        images: `(1, channels, *spatial)`, as large as in the training.

    Raises:
        SelfRegError: The network cannot take such images, or a module gives no map that can be read with certainty.
    """
    trial = Trial(network, images)
    known = known_stages(network)
    maps = known.encoder | known.decoder if known.are_maps else {}
    layouts = {name: trial.layout(name, module, is_map=name in maps) for name, module in modules.items()}
    calls = list(trial.outputs)
    return dict(sorted(layouts.items(), key=lambda item: calls.index(modules[item[0]])))


def _named(network: nn.Module, setting: str, stages: Modules, chosen: Iterable[int | str]) -> Modules:
    """The chosen modules by name, given by name or by index of a stage."""
    names = list(stages)
    modules: Modules = {}
    for stage in chosen:
        if isinstance(stage, str):
            name, module = stage, find_module(network, setting, stage)
        elif stage < len(names):
            name, module = names[stage], stages[names[stage]]
        else:
            raise SelfRegError(
                f"SelfReg: plans key 'selfreg.{setting}' names stage {stage}; this network's student stages are "
                f"{', '.join(map(str, range(len(names)))) or 'none'}"
            )
        if name in modules:
            raise SelfRegError(f"SelfReg: plans key 'selfreg.{setting}' names {name} twice")
        modules[name] = module
    return modules


def _with_first_blocks(stages: Modules, known: Stages) -> Modules:
    """The stages, each behind the first of its blocks."""
    both: Modules = {}
    for name, stage in stages.items():
        if name not in known.single and (block := first_block(name, stage)) is not None:
            both[f"{name}{FIRST_BLOCK}"] = block
        both[name] = stage
    return both


def _with_channels(name: str, module: nn.Module) -> str:
    channels = [part.output_channels for part in module.modules() if hasattr(part, "output_channels")]
    return f"{name} ({channels[0]})" if channels else name
