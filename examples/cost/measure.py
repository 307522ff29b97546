"""What SelfReg costs: one training step, stock and with SelfReg, side by side in one run.

    python measure.py --cases hippocampus-2d 224-2d --device cpu --output cost_cpu.json
    python measure.py --cases acdc-2d 128-3d --device cuda --compile --output cost_cuda.json

Every variant has a network of its own with the same weights and sees the same batch. Steps are interleaved, a round of
one step of each variant in changing order, so that drift of the machine hits all alike; a ratio is taken within its
round, and the table gives the median of the ratios with its quartiles. On CUDA the step is nnU-Net's: fp16 autocast,
gradient scaler, clipping; on a CPU `--amp` means bfloat16 autocast, whose maps have the same size. `--compile` compiles
the network as nnU-Net does on CUDA, and the terms with it. Memory is the peak of what torch allocates in a step.
`count.py` counts the terms' operators and bytes.
"""

import argparse
import json
import platform
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from alone import maps_of, step_of
from cases import CASES, Case, build_batch, build_loss, build_network
from cost_tables import alone, steps
from published import PublishedCriterion
from published import selfreg as published_selfreg

from nnunetv2_selfreg import __version__
from nnunetv2_selfreg.compat import compile_with_hooks
from nnunetv2_selfreg.criterion import SelfRegCriterion
from nnunetv2_selfreg.settings import SelfRegSettings
from nnunetv2_selfreg.taps import StageTaps

VARIANTS = ("stock", "selfreg", "scr", "ifd", "published")
SETTINGS = {
    "selfreg": SelfRegSettings(),
    "scr": SelfRegSettings({"scr": 0.015, "ifd": 0.0}),
    "ifd": SelfRegSettings({"scr": 0.0, "ifd": 0.015}),
}


class Step:
    """One variant's training step, as `nnUNetTrainer.train_step` does it."""

    def __init__(self, variant: str, case: Case, device: torch.device, amp: bool, compiled: bool) -> None:
        network = build_network(case).to(device)
        self.called = torch.compile(network) if compiled else network
        if compiled:
            compile_with_hooks()  # as the trainer does
        loss = build_loss(case)
        if variant == "published":
            loss = PublishedCriterion(loss, network)
        elif variant != "stock":
            loss = SelfRegCriterion(loss, StageTaps(network), SETTINGS[variant], device, compiled=compiled)
        self.network, self.loss, self.device, self.amp = network, loss, device, amp
        self.optimizer = torch.optim.SGD(network.parameters(), 1e-2, momentum=0.99, nesterov=True, weight_decay=3e-5)
        self.scaler = torch.GradScaler("cuda") if device.type == "cuda" else None

    def __call__(self, images, targets) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast(self.device.type, enabled=self.amp):
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


def losses_alone(case: Case, device: torch.device, compiled: bool) -> dict[str, Callable[[], Any]]:
    """The library's terms and the published ones, forward and backward, on the same maps."""
    maps = maps_of(case, device, torch.float16 if device.type == "cuda" else torch.float32)

    def published():
        maps.clear()
        published_selfreg(maps.encoder, maps.decoder, maps.teacher).backward()

    return {"library": step_of(maps, compiled=compiled), "published": published}


def kernels(function: Callable[[], Any]) -> int:
    """Kernels that a call launches on the GPU."""
    activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
    with torch.profiler.profile(activities=activities) as profile:
        function()
        torch.cuda.synchronize()
    on_gpu = [event for event in profile.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return sum(not event.name.startswith("Mem") for event in on_gpu)


def measure(name: str, device: torch.device, rounds: int, amp: bool, compiled: bool, variants: list[str]) -> dict:
    """All values of one case."""
    case = CASES[name]
    batch = build_batch(case, device)
    networks = {variant: Step(variant, case, device, amp, compiled) for variant in variants}
    times = interleaved(networks, batch, rounds, device)
    peaks = {variant: peak_bytes(step, *batch) for variant, step in networks.items()}
    del networks
    terms = losses_alone(case, device, compiled)
    alone_times = interleaved(terms, (), rounds, device)
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
        "kernels": {which: kernels(call) for which, call in terms.items()} if device.type == "cuda" else {},
    }


def draw(results: list[dict], path: Path) -> None:
    """Bars of the step's ratio to stock, with quartiles."""
    from matplotlib.figure import Figure

    colours = dict(zip(VARIANTS[1:], ("#0072B2", "#56B4E9", "#009E73", "#D55E00"), strict=True))
    colours = {variant: colour for variant, colour in colours.items() if variant in results[0]["step_over_stock"]}
    plot = Figure(figsize=(2 + 2.5 * len(results), 4.5), layout="constrained")
    axis = plot.subplots()
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
    plot.savefig(path, dpi=150)


def machine(device: torch.device) -> dict[str, str]:
    """What was measured on."""
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
    parser.add_argument("--amp", action="store_true", help="autocast; always on CUDA")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network, as nnU-Net does on CUDA")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS[1:], default=VARIANTS[1:], help="beside stock")
    parser.add_argument("--output", type=Path, default=Path("cost.json"), help="and a bar chart beside it, .png")
    parsed = parser.parse_args()
    device = torch.device(parsed.device)
    amp, results = parsed.amp or device.type == "cuda", []
    for name in parsed.cases:
        print(f"measuring {name} ...", flush=True)
        results.append(measure(name, device, parsed.rounds, amp, parsed.compile, ["stock", *parsed.variants]))
    description = machine(device) | {"amp": str(amp), "compiled": str(parsed.compile)}
    content = {"machine": description, "results": results}
    parsed.output.write_text(json.dumps(content, indent=2) + "\n")
    draw(results, parsed.output.with_suffix(".png"))
    print(", ".join(f"{name} {value}" for name, value in description.items()))
    print("\n\n".join("\n".join(lines) for lines in (steps([content]), alone([content]))))


if __name__ == "__main__":
    main()
