#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Turns results/quality.json into tables and plots: quality.py [--check]

Tables of README.md, docs/results.md, docs/choosing.md and bench/README.md, plots of docs/algorithm.md.

The JSON is what `kvfit eval CAPTURES --methods … --ratios 10,20,50 --reference REFERENCE.json --json` writes. Errors
are those of held-out queries over the published AM-OMP's on the same head, geometric means over all heads.
Plots need matplotlib; without it the tables alone are made. --check writes nothing, and fails where a table is not that
of the JSON.
"""

import collections
import json
import math
import pathlib
import sys

try:
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt
except ImportError:
    plt = None

here = pathlib.Path(__file__).parent
ratios = (10, 20, 50)
in_table = (
    "first", "last", "random", "topk", "h2o", "snapkv", "kvzip", "expected_attention", "select_only", "zero_bias", "joint_zero_bias", "refined_zero_bias",
    "highest_attention", "gradient_mass", "gradient_joint", "omp_fast", "omp", "joint", "refined",
)  # fmt: skip
in_short_table = ("h2o", "snapkv", "kvzip", "highest_attention", "omp_fast", "omp", "joint", "refined")
# docs/choosing.md: what the reader has, and what to take.
choices = (
    ("a bias per key, and the time of OMP: **start here**", "joint"),
    ("a bias per key, and time: the most faithful", "refined"),
    ("a bias per key, and little time", "highest_attention"),
    ("a kernel without a bias", "joint_zero_bias"),
    ("a kernel without a bias, and time", "refined_zero_bias"),
    ("a kernel without a bias, and little time", "zero_bias"),
    ("a cache that must hold its own rows, without a bias", "snapkv"),
    ("the published method, to compare with", "omp"),
    ("the same, quicker", "omp_fast"),
)  # fmt: skip
colours = {
    "highest_attention": "#9c755f", "gradient_mass": "#bab0ac", "gradient_joint": "#76736f", "omp_fast": "#edc948",
    "omp": "#f28e2b", "joint": "#4e79a7", "refined": "#1b3a5c", "zero_bias": "#d7a3a5", "joint_zero_bias": "#76b7b2",
    "refined_zero_bias": "#2f7f79",
}  # fmt: skip


def read(path):
    """(method, ratio) -> rows, one a capture."""
    rows = collections.defaultdict(list)
    for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
        rows[row["method"], int(row["ratio"])].append(row)
    return rows


def mean(rows, error):
    """Geometric mean over all heads of error / AM-OMP's."""
    heads = sum(len(row["heads"]) for row in rows)
    return math.exp(sum(len(row["heads"]) * math.log(row["against"][error]) for row in rows) / heads)


def rms_mean(rows, base):
    """Geometric mean over all heads of the rms output error over that of `omp`, which is AM-OMP."""
    error = [head["rms_output_error"] for row in rows for head in row["heads"]]
    against = [head["rms_output_error"] for row in base for head in row["heads"]]
    return math.exp(sum(math.log(a / b) for a, b in zip(error, against, strict=True)) / len(error))


def milliseconds(rows):
    return sum(row["milliseconds"] * len(row["heads"]) for row in rows) / sum(len(row["heads"]) for row in rows)


def short_table(rows):
    lines = [
        "| method | output 10× | 20× | 50× | mass 10× | 20× | 50× | ms a head, 20× |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for method in in_short_table:
        cells = [f"{mean(rows[method, r], e):.3g}" for e in ("output_error", "mass_error") for r in ratios]
        lines.append(f"| `{method}` | " + " | ".join(cells) + f" | {milliseconds(rows[method, 20]):.3g} |")
    return "\n".join(lines)


def choosing(rows):
    lines = ["| you have | preset | output error, 20× | mass error, 20× | ms a head |", "|---|---|--:|--:|--:|"]
    for situation, method in choices:
        cells = [f"{mean(rows[method, 20], e):.3g}" for e in ("output_error", "mass_error")]
        cells.append(f"{milliseconds(rows[method, 20]):.3g}")
        lines.append(f"| {situation} | `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def table(rows):
    lines = [
        "| method | output 10× | 20× | 50× | rms output 10× | 20× | 50× | mass 10× | 20× | 50× | heads worse | ms a head |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for method in in_table:
        cells = [f"{mean(rows[method, r], 'output_error'):.3g}" for r in ratios]
        cells += [f"{rms_mean(rows[method, r], rows['omp', r]):.3g}" for r in ratios]
        cells += [f"{mean(rows[method, r], 'mass_error'):.3g}" for r in ratios]
        cells.append("/".join(str(sum(row["against"]["output_worse"] for row in rows[method, r])) for r in ratios))
        cells.append(" / ".join(f"{milliseconds(rows[method, r]):.3g}" for r in ratios))
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def means(rows):
    """Plain means over all heads."""
    lines = ["| method | output 10× | 20× | 50× | mass 10× | 20× | 50× |", "|---|--:|--:|--:|--:|--:|--:|"]
    for method in in_table:
        cells = []
        for error in ("output_error", "mass_error"):
            for r in ratios:
                of_heads = [head[error] for row in rows[method, r] for head in row["heads"]]
                cells.append(f"{sum(of_heads) / len(of_heads):.3g}")
        lines.append(f"| `{method}` | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def put_between(path, name, text):
    """Whether the table was the same before."""
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    old = path.read_text(encoding="utf-8")
    head, rest = old.split(start)
    new = f"{head}{start}\n{text}\n{end}{rest.split(end)[1]}"
    if "--check" not in sys.argv:
        path.write_text(new, encoding="utf-8")
    elif new != old:
        print(f"{path}: the table \"{name}\" is not that of bench/results/quality.json: run bench/quality.py")
    return new == old


def save(figure, name):
    figure.savefig(here.parent / "docs" / "plots" / name, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)


def errors_by_ratio(rows):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6))
    for axis, error in zip(axes, ("output_error", "mass_error")):
        for method, colour in colours.items():
            axis.plot(ratios, [mean(rows[method, r], error) for r in ratios], "o-", color=colour, label=method, ms=4)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(ratios, [f"{r}×" for r in ratios])
        axis.minorticks_off()
        axis.set_title(error.replace("_", " ") + " over the published AM-OMP's")
        marks = (0.6, 0.8, 1, 1.2, 1.5) if error == "output_error" else (0.25, 0.5, 1, 2, 4)
        axis.set_yticks(marks, [str(m) for m in marks])
        axis.grid(alpha=0.3)
    axes[1].legend(fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
    save(figure, "errors.svg")


def error_by_time(rows):
    figure, axis = plt.subplots(figsize=(7, 3.6))
    for method, colour in colours.items():
        points = [(milliseconds(rows[method, r]), mean(rows[method, r], "output_error")) for r in ratios]
        axis.plot(*zip(*points), "-", color=colour, lw=0.8)
        for (x, y), r in zip(points, ratios):
            axis.plot(x, y, "o", color=colour, ms={10: 8, 20: 5, 50: 3}[r])
        axis.annotate(method, points[0], textcoords="offset points", xytext=(8, -2), fontsize=7, color=colour)
    axis.set_xscale("log")
    axis.set_xlim(2.5, 8000)
    axis.set_xlabel("milliseconds a head, one thread (large dots 10×, small ones 50×)")
    axis.set_ylabel("output error over AM-OMP's")
    axis.grid(alpha=0.3)
    save(figure, "frontier.svg")


def errors_by_head(rows):
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2))
    for axis, error in zip(axes, ("output_error", "mass_error")):
        order = sorted(range(sum(len(row["heads"]) for row in rows["omp", 20])),
                       key=lambda k: [h[error] for row in rows["omp", 20] for h in row["heads"]][k])  # fmt: skip
        for method in ("omp", "joint", "refined"):
            of_heads = [head[error] for row in rows[method, 20] for head in row["heads"]]
            axis.plot([of_heads[k] for k in order], "o", color=colours[method], label=method, ms=3)
        axis.set_yscale("log")
        axis.set_title(error.replace("_", " ") + " at 20×, head by head")
        axis.set_xlabel("heads, by the error of omp")
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8, frameon=False)
    save(figure, "heads.svg")


def main():
    rows = read(here / "results" / "quality.json")
    same = [
        put_between(here.parent / "README.md", "short fidelity", short_table(rows)),
        put_between(here.parent / "docs" / "results.md", "fidelity", table(rows)),
        put_between(here.parent / "docs" / "choosing.md", "choosing", choosing(rows)),
        put_between(here / "README.md", "means", means(rows)),
    ]
    if "--check" in sys.argv:
        sys.exit(not all(same))
    if plt is None:
        print("quality.py: no matplotlib: plots are left as they are")
        return
    plt.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "kvfit", "font.size": 8})
    (here.parent / "docs" / "plots").mkdir(exist_ok=True)
    errors_by_ratio(rows)
    error_by_time(rows)
    errors_by_head(rows)


if __name__ == "__main__":
    main()
