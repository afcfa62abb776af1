# SPDX-License-Identifier: MIT
"""What the table of coverage says of a planted file of counts."""

import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import table as coverage  # noqa: E402

INCLUDE = pathlib.Path("/src/include")


def lcov(file, lines, branches=()):
    return [f"SF:{file}", *(f"DA:{n},{times}" for n, times in lines),
            *(f"BRDA:{n},0,{b},{times}" for n, b, times in branches), "end_of_record"]


class Table(unittest.TestCase):
    def test_a_line_counts_once_and_as_run_where_any_program_ran_it(self):
        text = (lcov("/src/include/kvfit/view/a.hpp", [(1, 0), (2, 5)], [(2, 0, 1), (2, 1, "-")])
                + lcov("/src/build/../include/kvfit/view/a.hpp", [(1, 3), (2, 0)], [(2, 0, 0), (2, 1, 0)])
                + lcov("/src/tests/view/a_test.cpp", [(1, 0)])
                + lcov("/src/include/kvfit/metal/b.hpp", [(1, 0)])
                + lcov("/src/include/kvfit/presets.hpp", [(7, 0)]))
        modules = coverage.by_module(coverage.read_lcov(text, INCLUDE))
        self.assertEqual(modules, {"view": [2, 2, 2, 1], "(top)": [1, 0, 0, 0]})
        lines, total = coverage.table(modules)
        self.assertEqual(total, [3, 2, 2, 1])
        self.assertIn("66.67", lines[-1])
        self.assertEqual(coverage.verdict(total), 1)

    def test_95_percent_is_enough_and_less_or_nothing_is_not(self):
        self.assertEqual(coverage.verdict([100, 95, 0, 0]), 0)
        self.assertEqual(coverage.verdict([1000, 949, 0, 0]), 1)
        self.assertEqual(coverage.verdict([0, 0, 0, 0]), 1)

    def test_lines_that_did_not_run_are_named_in_runs(self):
        self.assertEqual(coverage.runs_of([9, 3, 4, 5]), "3-5, 9")


if __name__ == "__main__":
    unittest.main()
