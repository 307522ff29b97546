"""How the two losses grow with patch size, batch, channels and depth: seconds for forward and backward of them alone.

    python growth.py --device cpu --output growth_cpu.json

One quantity grows at a time. The slope is that of a line through log(seconds) over log(voxels times channels of all
student maps): 1 is linear growth. "Epochs" repeats the same step and compares the last tenth with the first.
"""

import argparse
import json
import math
import statistics
from pathlib import Path

import torch
from alone import Maps, step_of
from measure import machine, seconds


def maps_of(patch: int, batch: int, channels: int, stages: int, device: torch.device) -> Maps:
    """Maps of a 2D U-Net with this many encoder stages, halved in size and doubled in channels from stage to stage."""
    return Maps([(batch, channels * 2**i, patch // 2**i, patch // 2**i) for i in range(stages)], device)


def size(maps: Maps) -> int:
    return sum(student.numel() for student in maps.students)


def slope(points: list[tuple[int, float]]) -> float:
    """Least squares through the logarithms."""
    logs = [(math.log(x), math.log(y)) for x, y in points]
    middle_x, middle_y = (statistics.mean(values) for values in zip(*logs, strict=True))
    return sum((x - middle_x) * (y - middle_y) for x, y in logs) / sum((x - middle_x) ** 2 for x, _ in logs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=Path("growth.json"))
    parsed = parser.parse_args()
    device = torch.device(parsed.device)
    usual = {"patch": 128, "batch": 4, "channels": 16, "stages": 5}
    series = {"patch": [64, 128, 192, 256], "batch": [2, 4, 8, 16], "channels": [8, 16, 32, 64], "stages": [3, 4, 5, 6]}
    results = {}
    print("| grows | student voxels x channels | seconds | slope |\n|---|---|---|---|")
    for name, values in series.items():
        points = []
        for value in values:
            maps = maps_of(**(usual | {name: value}), device=device)
            step = step_of(maps)
            times = [seconds(step, device=device) for _ in range(3 + parsed.rounds)][3:]
            points.append((size(maps), statistics.median(times)))
        results[name] = {"values": values, "points": points, "slope": slope(points)}
        sizes, medians = (" ".join(f"{value:.3g}" for value in column) for column in zip(*points, strict=True))
        print(f"| {name} {values} | {sizes} | {medians} | {results[name]['slope']:.2f} |", flush=True)
    step = step_of(maps_of(**usual, device=device))
    times = [seconds(step, device=device) for _ in range(400)]
    results["epochs"] = statistics.median(times[-40:]) / statistics.median(times[40:80])
    print(f"| steps 360 to 400 over steps 40 to 80 | | {results['epochs']:.3f} | |")
    parsed.output.write_text(
        json.dumps({"machine": machine(device), "usual": usual, "results": results}, indent=2) + "\n"
    )


if __name__ == "__main__":
    main()
