# SPDX-License-Identifier: MIT
"""What the mutation runner says of planted faults: one that is caught, one that survives, one that
is explained, one that does not compile, and lists that are wrong."""

import os
import pathlib
import shlex
import sys
import tempfile
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent))
import run as mutants  # noqa: E402

HEADER = "inline int twice(int x) {\n  return x + x;\n}\ninline int unused(int x) {\n  return x;\n}\n"
TEST = '#include "planted.hpp"\nint main() { return twice(3) == 6 ? 0 : 1; }\n'


def entry(name, old, new, more=""):
    return (f"fault: {name}\nfile: include/planted.hpp\ntest: planted/twice\n{more}"
            f"<<<\n{old}\n===\n{new}\n>>>\n\n")


class Planted(mutants.Recipe):
    """A tree of one header and one test, without what kvfit's own tests link."""

    def __init__(self, root, compiler):
        super().__init__(root, root / "build", compiler)
        self.common, self.libraries, self.support = "", [], []


class Runner(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.root = pathlib.Path(self.folder.name).resolve()
        (self.root / "include").mkdir()
        (self.root / "tests/planted").mkdir(parents=True)
        (self.root / "include/planted.hpp").write_text(HEADER)
        (self.root / "tests/planted/twice_test.cpp").write_text(TEST)

    def tearDown(self):
        self.folder.cleanup()

    def faults(self, text):
        path = self.root / "faults.txt"
        path.write_text(text)
        return mutants.read_list(path)

    def run_all(self, text):
        recipe = Planted(self.root, shlex.split(os.environ.get("CXX", "clang++")))
        return mutants.run(recipe, self.faults(text), 1, self.root / "out.json", lambda line: None)

    def test_each_planted_fault_is_reported_as_what_it_is(self):
        rows = self.run_all(
            entry("caught", "  return x + x;", "  return x - x;")
            + entry("survivor", "  return x;", "  return -x;")
            + entry("explained", "  return x;", "  return +x;", "survives: the same number\n")
            + entry("explained and caught", "  return x + x;", "  return 0;", "survives: no\n")
            + entry("broken", "  return x + x;", "  return y;")
            + entry("endless", "  return x + x;", "  for (volatile int i = x;; i = i) {}"))
        self.assertEqual([row["verdict"] for row in rows],
                         ["caught", "survived", "survived", "caught", "does not compile", "caught"])
        self.assertEqual([mutants.is_good(row) for row in rows],
                         [True, False, True, False, False, True])
        self.assertEqual(mutants.summary(rows), {"faults": 6, "caught": 3, "survived": 2,
                                                 "does not compile": 1, "explained": 1})
        self.assertEqual((self.root / "include/planted.hpp").read_text(), HEADER)

    def test_a_test_that_fails_without_a_fault_catches_nothing(self):
        (self.root / "tests/planted/twice_test.cpp").write_text("int main() { return 1; }\n")
        with self.assertRaisesRegex(mutants.ListError, "without any fault"):
            self.run_all(entry("caught", "  return x + x;", "  return x - x;"))

    def test_a_test_that_does_not_include_the_changed_file_is_refused(self):
        (self.root / "tests/planted/twice_test.cpp").write_text("int main() { return 0; }\n")
        rows = self.run_all(entry("caught", "  return x + x;", "  return x - x;"))
        self.assertEqual(rows[0]["verdict"], "does not compile")
        self.assertIn("nothing of planted/twice includes", rows[0]["how"])

    def test_a_text_that_is_gone_or_there_twice_is_an_error(self):
        recipe = Planted(self.root, ["clang++"])
        self.assertRegex(mutants.misfits(recipe, self.faults(entry("gone", "  no", "  yes")))[0],
                         "gone: its text occurs 0 times")
        self.assertRegex(mutants.misfits(recipe, self.faults(entry("twice", "}", "};")))[0],
                         "twice: its text occurs 2 times")
        self.assertEqual(
            mutants.misfits(recipe, self.faults(entry("fine", "  return x;", "  return 1;"))), [])

    def test_lists_that_are_wrong_are_refused(self):
        for text, why in ((entry("a", "x", "y") * 2, "named twice"), (entry("a", "x", "x"), "two different"),
                          ("file: a\n", "neither"), ("fault: a\n<<<\nx\n", "does not end"),
                          ("fault: a\nfiel: b\n", "neither")):
            with self.assertRaisesRegex(mutants.ListError, why):
                self.faults(text)


if __name__ == "__main__":
    mutants.LIMIT = 5
    unittest.main()
