#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The site's builder: what it lets pass, and what it refuses: site_test.py"""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "docs/site"))
import build  # noqa: E402
import python_reference  # noqa: E402

HEADER = """/// @file
namespace kvfit {

/// Documented, and so is what stands right below.
void one();
void two();

void three();

struct four {
  int field;
};
}
"""


class site_test(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)

    def warnings(self, *lines):
        (self.folder / "h.hpp").write_text(HEADER)
        (self.folder / "warnings.txt").write_text("".join(line.format(self.folder / "h.hpp") + "\n" for line in lines))
        return build.Site(self.folder).warnings()

    def test_a_free_function_or_type_without_a_comment_is_an_error(self):
        bad, plain = self.warnings("{}:8: warning: Member three() (function) of namespace kvfit is not documented.",
                                   "{}:10: warning: Compound kvfit::four is not documented.")
        self.assertEqual((len(bad), plain), (2, 0))

    def test_a_comment_counts_for_the_paragraph_below_it(self):
        bad, plain = self.warnings("{}:6: warning: Member two() (function) of namespace kvfit is not documented.")
        self.assertEqual((bad, plain), ([], 1))

    def test_fields_speak_for_themselves(self):
        bad, plain = self.warnings("{}:11: warning: Member field (variable) of struct kvfit::four is not documented.")
        self.assertEqual((bad, plain), ([], 1))

    def test_every_other_warning_is_an_error(self):
        bad, _ = self.warnings("{}:3: warning: explicit link request to 'x' could not be resolved")
        self.assertEqual(len(bad), 1)

    def test_every_page_has_a_place_in_the_navigation(self):
        self.assertEqual(list(build.Site(self.folder).check_navigation()), [])

    def test_a_page_without_a_place_in_the_navigation_is_an_error(self):
        site = build.Site(self.folder)
        site.pages.remove("docs/faq.md")
        site.pages.append("docs/nowhere.md")
        faults = list(site.check_navigation())
        self.assertEqual(len(faults), 2, faults)

    def test_links_and_code_spans_are_those_of_the_site(self):
        site = build.Site(self.folder)
        out = site.converted("docs/faq.md", "# FAQ\n\n[a](engines.md#3-the-bias) `it's\nso` [b](../LICENSE) **`c`**\n")
        self.assertIn("# FAQ {#page_faq}", out)
        self.assertIn("[a](page_engines.html#page_engines_3-the-bias) ``it's so`` [b](files/LICENSE.html)", out)
        self.assertIn("<b>``c``</b>", out)

    def test_a_public_python_function_without_a_docstring_is_an_error(self):
        package = self.folder / "kvfit"
        package.mkdir()
        (package / "__init__.py").write_text('"""All."""\n__all__ = ["f"]\ndef f():\n    """Does."""\n')
        self.assertIn("### f", python_reference.reference(package))
        (package / "__init__.py").write_text('"""All."""\n__all__ = ["f"]\ndef f():\n    pass\n')
        with self.assertRaises(SystemExit):
            python_reference.reference(package)


if __name__ == "__main__":
    unittest.main()
