"""What SelfReg costs: one training step, stock and with SelfReg, side by side in one run.

    python measure.py --cases hippocampus-2d 224-2d --device cpu --output cost_cpu.json
    python measure.py --cases acdc-2d 128-3d --device cuda --compile --output cost_cuda.json

Every variant has a network of its own with the same weights and sees the same batch. Steps are interleaved, a round of
one step of each variant in changing order, so that drift of the machine hits all alike; a ratio is taken within its
round, and the table gives the median of the ratios with its quartiles. On CUDA the step is nnU-Net's: fp16 autocast,
gradient scaler, clipping. Memory is the peak of what torch allocates in a step. Bytes are those of the tensors that the
operators of the two losses read and write, forward and backward, against the floor: each student map read twice and its
gradient written once, the teacher read once.
"""

import argparse
import json
import platform
import random
import statistics
import time
from contextlib import nullcontext
from pathlib import Path

import torch
from cases import CASES, Case, build_batch, build_loss, build_network
from published import selfreg as published_selfreg
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.anchors import Anchor
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageFeatures, StageTaps

VARIANTS = ("stock", "selfreg", "scr", "ifd", "published")
SETTINGS = {
    "selfreg": SelfRegSettings(),
    "scr": SelfRegSettings({"scr": 0.015, "ifd": 0.0}),
    "ifd": SelfRegSettings({"scr": 0.0, "ifd": 0.015}),
}


class PublishedCriterion(torch.nn.Module):
    """nnU-Net's loss plus the published formulation."""

    def __init__(self, loss, taps):
        super().__init__()
        self.loss, self.taps = loss, taps

    def forward(self, output, target):
        loss = self.loss(output, target)
        return loss + 0.015 * published_selfreg(*self.taps.take()[:3])


class Step:
    """One variant's training step, as `nnUNetTrainer.train_step` does it."""

    def __init__(self, variant: str, case: Case, device: torch.device, compiled: bool) -> None:
        network = build_network(case).to(device)
        loss = build_loss(case)
        if variant == "published":
            loss = PublishedCriterion(loss, StageTaps(network))
        elif variant != "stock":
            loss = SelfRegCriterion(loss, StageTaps(network), SETTINGS[variant], device)
        self.network, self.loss, self.device = network, loss, device
        self.called = torch.compile(network) if compiled else network
        self.optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
        self.scaler = torch.GradScaler("cuda") if device.type == "cuda" else None

    def __call__(self, images, targets) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda") if self.scaler else nullcontext():
            loss = self.loss(self.called(images), targets)
        if self.scaler:
            self.scaler.scale(loss).backward()
            self.scaler.unscale_(self.optimizer)
        else:
            loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        if self.scaler:
            self.scaler.step(self.optimizer)
            self.scaler.update()
        else:
            self.optimizer.step()
        loss.detach().cpu()


def seconds(function, *arguments, device: torch.device) -> float:
    begin = time.perf_counter()
    function(*arguments)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - begin


def interleaved(functions: dict, arguments: tuple, rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of each function in each round, in an order that changes from round to round."""
    order, shuffle = list(functions), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in functions}
    for warm in range(3 + rounds):
        shuffle.shuffle(order)
        for name in order:
            taken = seconds(functions[name], *arguments, device=device)
            if warm >= 3:
                times[name].append(taken)
    return times


def ratios(times: dict[str, list[float]], over: str) -> dict[str, dict[str, float]]:
    """Median and quartiles of each variant's ratio to `over`, taken round by round."""
    result = {}
    for name, values in times.items():
        quotients = [a / b for a, b in zip(values, times[over], strict=True)]
        low, middle, high = statistics.quantiles(quotients, n=4)
        result[name] = {"median": middle, "lower_quartile": low, "upper_quartile": high}
    return result


def peak_bytes(step: Step, images, targets) -> int:
    """Most bytes that torch holds at a time for one step, over what it held before."""
    if step.device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step(images, targets)
        return torch.cuda.max_memory_allocated() - before
    for _ in range(2):  # the first profile misses memory from before it that the step lets go
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            step(images, targets)
    held = peak = 0
    memory = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(memory, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    return peak


class MovedBytes(TorchDispatchMode):
    """Bytes of all tensors that operators read and write; views move nothing."""

    moved = 0

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        if not function.is_view:
            for tensor in tree_leaves((arguments, keywords, result)):
                if isinstance(tensor, torch.Tensor):
                    self.moved += tensor.numel() * tensor.element_size()
        return result


def features_of(case: Case, device: torch.device, dtype: torch.dtype):
    """Maps as the taps hand them over, detached from the network, with gradients of their own."""
    network = build_network(case).to(device)
    taps = StageTaps(network)
    with torch.autocast("cuda") if device.type == "cuda" else nullcontext():
        network(build_batch(case, device)[0])
    encoder, decoder, final = taps.take()[:3]
    return [[f.detach().to(dtype).requires_grad_() for f in group] for group in (encoder, decoder)] + [final.detach()]


class NoLoss(torch.nn.Module):
    """nnU-Net's loss left out, to measure the two terms alone."""

    def forward(self, output, target):
        return torch.zeros(())


def losses_alone(case: Case, device: torch.device):
    """The library's terms and the published ones, forward and backward, on the same maps."""
    features = features_of(case, device, torch.float16 if device.type == "cuda" else torch.float32)
    taps = StageTaps(build_network(case))
    criterion = SelfRegCriterion(NoLoss().to(device), taps, SETTINGS["selfreg"], device)
    taps.take = lambda: StageFeatures(*features, [Anchor(f) for f in features[0] + features[1]])

    def clear():
        for feature in features[0] + features[1]:
            feature.grad = None

    def library():
        clear()
        criterion(None, None).backward()

    def published():
        clear()
        published_selfreg(*features).backward()

    students = sum(f.numel() * f.element_size() for f in features[0] + features[1])
    floor = 3 * students + features[2].numel() * features[2].element_size()
    return {"library": library, "published": published}, floor


def moved_bytes(function) -> int:
    """Bytes that the operators of a call read and write."""
    with MovedBytes() as counter:
        function()
    return counter.moved


def measure(name: str, device: torch.device, rounds: int, compiled: bool, variants: list[str]) -> dict:
    """All figures of one case."""
    case = CASES[name]
    batch = build_batch(case, device)
    steps = {variant: Step(variant, case, device, compiled) for variant in variants}
    times = interleaved(steps, batch, rounds, device)
    peaks = {variant: peak_bytes(step, *batch) for variant, step in steps.items()}
    del steps
    alone, floor = losses_alone(case, device)
    alone_times = interleaved(alone, (), rounds, device)
    return {
        "case": name,
        "origin": case.origin,
        "patch": case.patch,
        "batch": case.batch,
        "features": case.features,
        "rounds": rounds,
        "seconds": {variant: statistics.median(values) for variant, values in times.items()},
        "step_over_stock": ratios(times, "stock"),
        "memory_over_stock": {variant: peak / peaks["stock"] for variant, peak in peaks.items()},
        "losses_seconds": {which: statistics.median(values) for which, values in alone_times.items()},
        "published_over_library": ratios(alone_times, "library")["published"],
        "bytes_over_floor": {which: moved_bytes(function) / floor for which, function in alone.items()},
    }


def table(results: list[dict]) -> str:
    """The figures as Markdown."""
    lines = [
        "| case | variant | step / stock (quartiles) | peak memory / stock |",
        "|---|---|---|---|",
    ]
    for result in results:
        for variant, ratio in result["step_over_stock"].items():
            spread = f"{ratio['median']:.3f} ({ratio['lower_quartile']:.3f} to {ratio['upper_quartile']:.3f})"
            lines.append(f"| {result['case']} | {variant} | {spread} | {result['memory_over_stock'][variant]:.3f} |")
    lines += [
        "",
        "| case | the losses alone: published / library | bytes / floor: library | published |",
        "|---|---|---|---|",
    ]
    for result in results:
        ratio, moved = result["published_over_library"], result["bytes_over_floor"]
        spread = f"{ratio['median']:.2f} ({ratio['lower_quartile']:.2f} to {ratio['upper_quartile']:.2f})"
        lines.append(f"| {result['case']} | {spread} | {moved['library']:.1f} | {moved['published']:.1f} |")
    return "\n".join(lines)


def draw(results: list[dict], path: Path) -> None:
    """Bars of the step's ratio to stock, with quartiles."""
    from matplotlib.figure import Figure

    colours = dict(zip(VARIANTS[1:], ("#0072B2", "#56B4E9", "#009E73", "#D55E00"), strict=True))
    colours = {variant: colour for variant, colour in colours.items() if variant in results[0]["step_over_stock"]}
    figure = Figure(figsize=(2 + 2.5 * len(results), 4.5), layout="constrained")
    axis = figure.subplots()
    for shift, (variant, colour) in enumerate(colours.items()):
        found = [result["step_over_stock"][variant] for result in results]
        middle = [100 * (ratio["median"] - 1) for ratio in found]
        below = [100 * (ratio["median"] - ratio["lower_quartile"]) for ratio in found]
        above = [100 * (ratio["upper_quartile"] - ratio["median"]) for ratio in found]
        places = [position + (shift - 1.5) * 0.2 for position in range(len(results))]
        axis.bar(places, middle, 0.18, yerr=[below, above], capsize=3, color=colour, label=variant)
    axis.axhline(2, color="black", linestyle="--", linewidth=1, label="goal: at most 2 %")
    axis.set_xticks(range(len(results)), [result["case"] for result in results])
    axis.set_ylabel("training step over stock nnU-Net [%]")
    axis.legend(frameon=False, ncols=3, loc="lower center", bbox_to_anchor=(0.5, 1))
    figure.savefig(path, dpi=150)


def machine(device: torch.device) -> dict[str, str]:
    """What the figures were measured on."""
    description = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "torch": torch.__version__,
        "nnunetv2-selfreg": __version__,
        "python": platform.python_version(),
    }
    if device.type == "cuda":
        description["cuda"] = str(torch.version.cuda)
    return description


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["hippocampus-2d", "224-2d"])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network, as nnU-Net does on CUDA")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS[1:], default=VARIANTS[1:], help="beside stock")
    parser.add_argument("--output", type=Path, default=Path("cost.json"), help="and a bar chart beside it, .png")
    parsed = parser.parse_args()
    device = torch.device(parsed.device)
    results = []
    for name in parsed.cases:
        print(f"measuring {name} ...", flush=True)
        results.append(measure(name, device, parsed.rounds, parsed.compile, ["stock", *parsed.variants]))
    description = machine(device) | {"compiled": str(parsed.compile)}
    parsed.output.write_text(json.dumps({"machine": description, "results": results}, indent=2) + "\n")
    draw(results, parsed.output.with_suffix(".png"))
    print(", ".join(f"{name} {value}" for name, value in description.items()))
    print(table(results))


if __name__ == "__main__":
    main()
