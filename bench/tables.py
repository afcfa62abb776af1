#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Turns the JSON of one benchmark run into Markdown tables: tables.py score.json compact.json ...

Every kvfit row stands beside the baseline ("eigen") row of its stage and size from the same file. Times are
medians over repetitions of CPU time; ratio = baseline / kvfit, so below 1 kvfit loses.

  --losses    only the rows with a ratio below 1
  --readme    write both kinds into the README.md beside this script, between its markers
"""

import json
import pathlib
import statistics
import sys


def read(path):
    with open(path, encoding="utf-8") as file:
        run = json.load(file)
    rows = {}
    for entry in run["benchmarks"]:
        if entry.get("run_type") == "aggregate" or entry.get("error_occurred"):
            continue
        stage, method, *arguments = entry["run_name"].split("/")
        sizes = dict(a.split(":") for a in arguments if a[:2] in ("T:", "d:"))
        rows.setdefault((stage, int(sizes["T"]), int(sizes["d"])), {}).setdefault(method, []).append(entry)
    return run["context"], rows


def median(entries, key):
    return statistics.median(entry[key] for entry in entries)


def milliseconds(entries):
    return median(entries, "cpu_time") * {"ns": 1e-6, "us": 1e-3, "ms": 1, "s": 1e3}[entries[0]["time_unit"]]


def number(x):
    if x < 1e-4:
        return f"{x:.0e}"
    return f"{x:.3g}" if x < 1000 else f"{x:.0f}"


def errors(entries):
    return f"{number(entries[0]['output_error'])} / {number(entries[0]['mass_error'])}"


def speed(entries, roof):
    if "GFLOP/s" not in entries[0]:
        return ""
    rate = median(entries, "GFLOP/s")
    return f"{rate:.0f} ({100 * rate / roof:.0f} %)"


def stages(entries):
    names = ("check", "score", "select", "bias", "values", "judge")
    if "score_ms" not in entries[0]:
        return ""
    return " + ".join(number(median(entries, name + "_ms")) for name in names)


def provenance(path, context):
    return (f"`{pathlib.Path(path).name}`: {context['date'][:16]}, {context['cpu']}, {context['compiler']}, "
            f"`{context['flags']}`, kvfit {context['kvfit']}, Eigen {context['eigen']}, xsimd {context['xsimd']}, "
            f"FMA roof {float(context['fma_roof_gflops']):.0f} GFLOP/s, load at start {context['load_avg'][0]:.1f}\n")


def tables(path, only_losses):
    context, rows = read(path)
    roof = float(context["fma_roof_gflops"])
    out = []
    for stage in dict.fromkeys(key[0] for key in rows):
        is_whole = stage.startswith("compact_")
        lines = []
        for (of, keys, depth), methods in rows.items():
            if of != stage:
                continue
            plain = methods.get("eigen")
            for method, entries in methods.items():
                if method == "eigen":
                    continue
                ratio = milliseconds(plain) / milliseconds(entries) if plain else None
                if only_losses and (ratio is None or ratio >= 1):
                    continue
                cells = [keys, depth, method.removeprefix("kvfit_"), number(milliseconds(entries)),
                         number(milliseconds(plain)) if plain else "–",
                         "–" if ratio is None else f"{ratio:.2f}" if ratio >= 1 else f"**{ratio:.2f}**",
                         stages(entries) if is_whole else speed(entries, roof),
                         errors(entries), errors(plain) if plain else "–"]
                lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
        if lines:
            extra = "check + score + select + bias + values + judge, ms" if is_whole else "GFLOP/s (of roof)"
            out += [f"**{stage}**\n",
                    f"| T | d | method | kvfit ms | eigen ms | ratio | {extra} | output / mass error | eigen's |",
                    "|--:|--:|---|--:|--:|--:|--:|---|---|", *lines, ""]
    if out:
        out.insert(0, provenance(path, context))
    return "\n".join(out)


def between(text, name, content):
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    head, rest = text.split(begin)
    return f"{head}{begin}\n\n{content.strip()}\n\n{end}{rest.split(end)[1]}"


def main(arguments):
    paths = [a for a in arguments if not a.startswith("--")]
    if not paths:
        sys.exit(__doc__)
    if "--readme" in arguments:
        readme = pathlib.Path(__file__).with_name("README.md")
        text = readme.read_text(encoding="utf-8")
        text = between(text, "results", "\n".join(tables(path, False) for path in paths))
        text = between(text, "losses", "\n".join(tables(path, True) for path in paths))
        readme.write_text(text, encoding="utf-8")
        return
    for path in paths:
        print(tables(path, "--losses" in arguments))


main(sys.argv[1:])
