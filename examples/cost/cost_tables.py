"""Makes the page's tables of what measure.py and count.py wrote: cost_tables.py FILE...

python examples/cost/cost_tables.py examples/cost/results/*.json
"""

import json
import sys
from pathlib import Path


def steps(found: list[dict]) -> list[str]:
    lines = ["| on | case | variant | step / stock (quartiles) | peak memory / stock |", "|---|---|---|---|---|"]
    for content in found:
        for result in content["results"]:
            for variant, ratio in result["step_over_stock"].items():
                if variant != "stock":
                    memory = f"{result['memory_over_stock'][variant]:.3f}"
                    cells = [name(content), result["case"], variant, with_quartiles(ratio, 3), memory]
                    lines.append(f"| {' | '.join(cells)} |")
    return lines


def alone(found: list[dict]) -> list[str]:
    lines = ["| on | case | the terms alone: published / library | kernels |", "|---|---|---|---|"]
    for content in found:
        for result in content["results"]:
            kernels = result.get("kernels", {})
            counted = f"{kernels['library']}, published {kernels['published']}" if kernels else ""
            ratio = with_quartiles(result["published_over_library"], 2)
            lines.append(f"| {name(content)} | {result['case']} | {ratio} | {counted} |")
    return lines


def counts(found: list[dict]) -> list[str]:
    lines = [
        "| case, maps in half precision | formulation | operators or kernels | bytes / floor |",
        "|---|---|---|---|",
    ]
    for content in found:
        for formulation, counted in content["counts"].items():
            cells = [content["case"], formulation, str(counted["operators"]), str(counted["bytes over floor"])]
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def name(content: dict) -> str:
    machine = content["machine"]
    precision = "AMP" if machine.get("amp") == "True" else "float32"
    return f"{machine['device']}, {precision}, {'compiled' if machine['compiled'] == 'True' else 'eager'}"


def with_quartiles(ratio: dict[str, float], digits: int) -> str:
    median, low, high = (f"{ratio[key]:.{digits}f}" for key in ("median", "lower_quartile", "upper_quartile"))
    return f"{median} ({low} to {high})"


def main() -> None:
    found = [json.loads(Path(path).read_text()) for path in sys.argv[1:]]
    measured = [content for content in found if isinstance(content.get("results"), list)]
    counted = [content for content in found if "counts" in content]
    tables = [table(part) for table, part in ((steps, measured), (alone, measured), (counts, counted)) if part]
    print("\n\n".join("\n".join(lines) for lines in tables))
    if not any("CPU" not in content["machine"]["device"] for content in measured):
        print("\nNot measured on a GPU.")


if __name__ == "__main__":
    main()
