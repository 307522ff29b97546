"""Counts what the two terms do in a training step, forward and backward: operators, or kernels, and bytes.

    python count.py --case acdc-2d --output count_cpu.json

Nothing is timed, so a CPU tells what a GPU would do, but that a GPU splits a large sum into two kernels. The maps are
those of nnU-Net's plan in half precision, in a batch of 2: the batch changes bytes by a factor. Eager: the operators
that torch dispatches, views left out, and the bytes of the tensors that they read and write. Compiled: the kernels
after the compiler's fusion, with the bytes as the compiler counts them, and the operators that are left to torch. The
floor is what any implementation moves: each student map read twice and its gradient written, the teacher read once.
"""

import argparse
import json
from pathlib import Path
from types import FunctionType
from unittest.mock import patch

import torch
from alone import Maps, maps_of, step_of
from cases import CASES
from measure import machine
from published import selfreg as published_selfreg
from torch._inductor.graph import GraphLowering
from torch._inductor.scheduler import FusedSchedulerNode, SchedulerNode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunetv2_selfreg import terms
from nnunetv2_selfreg.settings import SelfRegSettings


class Dispatched(TorchDispatchMode):
    """Counts operators and the bytes that they read and write; views do nothing."""

    operators = moved = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if not function.is_view:
            self.operators += 1
            for tensor in tree_leaves((arguments, keywords, result)):
                if isinstance(tensor, torch.Tensor):
                    self.moved += tensor.numel() * tensor.element_size()
        return result


def eager(step) -> dict[str, int]:
    step()  # what is made once
    with Dispatched() as counter:
        step()
    return {"operators": counter.operators, "bytes": counter.moved}


def compiled(maps: Maps, settings: SelfRegSettings | None = None) -> dict[str, int]:
    step = step_of(maps, settings, compiled=True)
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        step()
    left = sum(event.name.startswith("aten::") and is_outermost(event) for event in profile.events())
    kernels, moved = fused(maps, settings)
    return {"operators": kernels + left, "kernels": kernels, "bytes": moved}


def fused(maps: Maps, settings: SelfRegSettings | None) -> tuple[int, int]:
    """Kernels of a step, and the bytes that these and the operators between them move.

    The compiler counts when it compiles, and bytes of known sizes only: so each call is compiled for itself here.
    """
    kernels, moved = [], []
    count_bytes = GraphLowering.count_bytes

    def count(graph):
        found = count_bytes(graph)
        nodes = graph.scheduler.nodes
        kernels.append(sum(isinstance(node, (SchedulerNode, FusedSchedulerNode)) for node in nodes))
        moved.append(found[0])
        return found

    def compile_each(function, any_shape):
        own_code = FunctionType(function.__code__.replace(), function.__globals__)  # the compiler's cache goes by code
        return torch.compile(own_code, fullgraph=True, dynamic=False)

    torch._logging.set_logs(inductor_metrics=True)  # otherwise the compiler does not count
    with (
        patch.object(terms, "_compiled", compile_each),
        patch.object(GraphLowering, "count_bytes", count),
        torch._inductor.config.patch(force_disable_caches=True),
    ):
        step_of(maps, settings, compiled=True)()
    return sum(kernels), sum(moved)


NOTHING_MOVES = {  # views, and memory that is not written
    *"view view_as reshape detach select slice split unbind t transpose permute alias as_strided expand".split(),
    *"unsqueeze narrow flatten unflatten result_type to lift_fresh empty new_empty empty_strided empty_like".split(),
}


def is_outermost(event) -> bool:
    """Whether no other operator called this one, and it is no view."""
    parent = event.cpu_parent
    while parent is not None:
        if parent.name.startswith("aten::"):
            return False
        parent = parent.cpu_parent
    return event.name.removeprefix("aten::") not in NOTHING_MOVES


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="acdc-2d")
    parser.add_argument("--output", type=Path, default=Path("count.json"))
    parsed = parser.parse_args()
    maps = maps_of(CASES[parsed.case], torch.device("cpu"), torch.float16, batch=2)

    def published() -> None:
        maps.clear()
        published_selfreg(maps.encoder, maps.decoder, maps.teacher).backward()

    expected = SelfRegSettings(scr_channels="expected")
    found = {
        "published": eager(published),
        "eager": eager(step_of(maps)),
        "compiled": compiled(maps),
        "eager, SCR's expectation": eager(step_of(maps, expected)),
        "compiled, SCR's expectation": compiled(maps, expected),
    }
    for counts in found.values():
        counts["bytes over floor"] = round(counts["bytes"] / maps.floor(), 1)
    print(json.dumps(found, indent=2))
    content = {"machine": machine(torch.device("cpu")), "case": parsed.case, "counts": found}
    parsed.output.write_text(json.dumps(content, indent=2) + "\n")


if __name__ == "__main__":
    main()
