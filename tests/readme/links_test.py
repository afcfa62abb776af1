#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The check of links finds what is broken, names its place, and nothing else: links_test.py"""

import pathlib
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "docs/site"))
import links  # noqa: E402

SOUND = """# A page

Text with a [page](other.md), an [anchor](other.md#a-second-heading), one [here](#a-page), a [folder](folder), one that
[goes on
over lines](other.md), an ![image](folder/plot.svg), the [web](https://example.org/a?b=c#d) and a [reference][1].

[1]: other.md#twice-1

`[code](nowhere.md)`, ``[more `code`](nowhere.md)`` and

```md
[a block](nowhere.md)
```
"""
OTHER = "# Other\n\n## A *second* `heading`!\n\n## Twice\n\n## Twice\n\n```sh\n# no heading\n```\n"


class links_test(unittest.TestCase):
    def tree(self, page):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        root = pathlib.Path(folder.name).resolve()
        (root / "folder").mkdir()
        (root / "folder/plot.svg").write_text("<svg/>")
        (root / "folder/deep.md").write_text("[up](../page.md)\n")
        (root / "other.md").write_text(OTHER)
        (root / "page.md").write_text(page)
        return root

    def faults(self, page):
        return links.check_markdown(self.tree(page))[3]

    def test_sound_links_are_not_reported(self):
        files, count, web, faults = links.check_markdown(self.tree(SOUND))
        self.assertEqual(faults, [])
        self.assertEqual((files, count, web), (3, 9, 1))

    def test_every_kind_of_broken_link_is_reported_with_its_line(self):
        for link, said in (("missing.md", "no such file"), ("folder/missing.hpp", "no such file"),
                           ("other.md#third", "no heading"), ("#nowhere", "no heading"),
                           ("other.md#no-heading", "no heading"), ("other.md#twice-2", "no heading"),
                           ("../outside.md", "leaves the repository"), ("/other.md", "leaves the repository"),
                           ("https:/example.org", "no form of a web address"), ("htp://example.org", "unknown kind"),
                           ("folder/plot.svg#part", "not Markdown"), ("", "empty")):
            with self.subTest(link=link):
                faults = self.faults(f"# A page\n\nfirst line\n[text]({link})\n")
                self.assertEqual(len(faults), 1, faults)
                self.assertTrue(faults[0].startswith("page.md:4: "), faults)
                self.assertIn(said, faults[0])

    def test_a_planted_fault_among_sound_links_is_the_only_one_reported(self):
        faults = self.faults(SOUND.replace("folder/plot.svg", "folder/plots.svg"))
        self.assertEqual(len(faults), 1, faults)
        self.assertIn("folder/plots.svg", faults[0])

    def test_html_pages_are_held_to_files_and_ids(self):
        root = self.tree("")
        (root / "a.html").write_text('<a href="b.html#here">x</a><img src="folder/plot.svg"><p id="there">')
        (root / "b.html").write_text('<p id="here"><a href="a.html#there">y</a><a href="javascript:f()">z</a>')
        self.assertEqual(links.check_html(root), (2, 3, 0, []))
        (root / "b.html").write_text('<a href="a.html#nowhere">y</a><a href="c.html">z</a>')
        self.assertEqual(len(links.check_html(root)[3]), 3)  # and a.html's #here


if __name__ == "__main__":
    unittest.main()
