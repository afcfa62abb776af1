#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Puts results/speed.json into docs/performance.md as a table: speed_table.py"""

import json
import pathlib

here = pathlib.Path(__file__).parent
page = here.parent / "docs" / "performance.md"
begin, end = "<!-- speed -->\n", "<!-- end of speed -->"


def number(value, form="{:.3g}"):
    return "–" if value is None else form.format(value)


def rest(row):
    parts = []
    if row.get("percent_of_roof"):
        parts.append(f"{row['percent_of_roof']:.0f} % of the roof")
    if "rounding_of_outputs" in row:
        parts.append(f"outputs off by {row['rounding_of_outputs']:.1g}")
    if "fp32_s" in row:
        parts.append(f"in fp32 {row['fp32_s']:.3g} s")
    if "exponent" in row:
        parts.append(f"exponent {row['exponent']:.3f}")
    if "resident_megabytes" in row:
        parts.append(f"resident {row['resident_megabytes']:.0f} MB, estimate {row['estimate_megabytes']:.0f}")
    if "ratio_at_roof" in row:
        parts.append(f"at the roof {row['ratio_at_roof']:.1f} times")
    if "rows_alike" in row:
        parts.append("rows alike " + ", ".join(f"{100 * share:.0f} %" for share in row["rows_alike"]))
    if "refused" in row:
        parts.append("refused")
    return ", ".join(parts)


def main():
    report = json.loads((here / "results" / "speed.json").read_text(encoding="utf-8"))
    bf16_roof = f", of bf16 {report['bf16_roof_gflops']:.0f}" if report.get("bf16_roof_gflops") else ""
    lines = [
        f"{report['machine']}, {report['compiler']}, `{report['flags']}`, FMA roof {report['fma_roof_gflops']:.0f} GFLOP/s{bf16_roof}; "
        f"T = {report['T']:,}, n = {report['n']:,}, d = {report['d']}, t = {report['t']} where nothing else is said; "
        "errors of output on held-out queries.",
        "",
        "| work | plain Eigen s | kvfit s | ratio | error, Eigen | kvfit | |",
        "|---|--:|--:|--:|--:|--:|---|",
    ]
    for row in report["rows"]:
        lines.append(
            f"| {row['name']} | {number(row['baseline_s'])} | {number(row['kvfit_s'])} | {number(row['ratio'], '{:.2f}')} "
            f"| {number(row['error_baseline'])} | {number(row['error_kvfit'])} | {rest(row)} |"
        )
    text = page.read_text(encoding="utf-8")
    head, tail = text.split(begin)[0], text.split(end)[1]
    page.write_text(head + begin + "\n" + "\n".join(lines) + "\n\n" + end + tail, encoding="utf-8")


if __name__ == "__main__":
    main()
