#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Builds the documentation as a site: build.py FOLDER. Called by ./dev docs.

Markdown pages are handed to Doxygen with links and anchors that hold within the site; files of the repository that
they name are copied beside them. Python's reference is made from its docstrings. What is wrong is an error: a page
without a place in the navigation, a warning of Doxygen, a broken link.
"""

import html
import pathlib
import re
import shutil
import subprocess
import sys

sys.path.insert(0, str(pathlib.Path(__file__).parent))
import links  # noqa: E402
import python_reference  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]

# Every page, and where the navigation has it. README.md is the first page.
NAVIGATION = [
    ("Start", ["docs/quickstart.md", "docs/concepts.md", "docs/choosing.md", "docs/installing.md", "docs/faq.md"]),
    ("Guides", ["docs/engines.md", "docs/queries.md", "docs/layouts.md", "docs/extending.md", "docs/tool.md", "docs/metal.md",
                "examples/llama_cpp/README.md", "examples/server/README.md"]),
    ("Facts", ["docs/results.md", "docs/performance.md", "bench/README.md", "docs/algorithm.md", "docs/formats.md",
               "docs/architecture.md", "docs/requirements.md"]),
    ("Reference", [("C++: types", "annotated.html"), ("C++: functions", "namespacemembers_func.html"),
                   ("C++: headers", "files.html"), ("C", "kvfit_8h.html"),
                   "docs/c_and_python.md", ("Python", "page_python_reference.html")]),
    ("Project", ["CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "packaging/README.md", "examples/data/README.md",
                 "examples/data/tinybooks/README.md"]),
]
# Lists that Doxygen makes where its own kind of tab asks for them.
MADE = {"annotated.html": "classlist", "namespacemembers_func.html": "namespacemembers", "files.html": "filelist"}
TEXT = {".hpp", ".h", ".cpp", ".c", ".py", ".sh", ".cmake", ".txt", ".json", ".md", ".yml", ".toml", ".metal", ".in",
        ".cff", ""}
LONGEST = 400_000  # bytes of a file shown as a page


def page_id(path):
    """The name of a Markdown page's HTML page; of README.md the site's first page."""
    name = path[:-len("/README.md")] if path.endswith("/README.md") else path[:-len(".md")]
    return "index" if path == "README.md" else "page_" + re.sub(r"\W", "_", name.removeprefix("docs/")).lower()


class Site:
    def __init__(self, folder):
        self.folder = folder
        self.html = folder / "html"
        self.pages = ["README.md"] + [page for _, group in NAVIGATION for page in group if isinstance(page, str)]
        self.titles = {}
        self.files = set()

    # ---- Markdown pages -------------------------------------------------------------------------------
    def check_navigation(self):
        there = {str(path.relative_to(ROOT)) for path in links.markdown_files(ROOT)}
        for page in sorted(set(self.pages) - there):
            yield f"{page}: the navigation names it, and it is not there"
        for page in sorted(there - set(self.pages)):
            yield f"{page}: has no place in the navigation of docs/site/build.py"

    def target(self, page, link):
        """What a link of a page is within the site."""
        if links.fault_of_address(link) != "":
            return link
        name, _, anchor = link.partition("#")
        to = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        path = str(to.relative_to(ROOT))
        if path in self.pages:
            return f"{page_id(path)}.html" + (f"#{page_id(path)}_{anchor}" if anchor else "")
        self.files.add(path)
        return self.file_page(path)

    @staticmethod
    def file_page(path):
        """A folder and a text become a page; anything else, or what is too long for one, is copied as it is."""
        file = ROOT / path
        is_page = file.is_dir() or (file.suffix in TEXT and file.stat().st_size <= LONGEST)
        return f"files/{path}.html" if is_page else f"files/{path}"

    def converted(self, page, text):
        """A page as Doxygen shall read it: headings with anchors, links within the site, code spans as they stand."""
        anchors = {number: (level, title, anchor) for number, level, title, anchor in links.headings(text)}
        identity, is_first = page_id(page), True
        lines = text.split("\n")
        for number, (level, title, anchor) in anchors.items():
            if is_first:
                self.titles[page] = title.replace("`", "")
                lines[number] = f"\\mainpage {title}" if page == "README.md" else f"# {title} {{#{identity}}}"
                is_first = False
            else:
                marks = "#" * (level - 1 if page == "README.md" else level)  # the first page has no level 1
                lines[number] = f"{marks} {title} {{#{identity}_{anchor}}}"
        text = "\n".join(lines)
        plain = links.without_code(text)
        out, last = [], 0
        for match in links.LINK.finditer(plain):
            start, end = match.span(1)
            link = self.target(page, text[start:end])
            opening = plain.rfind("![", 0, match.start())
            if opening >= 0 and "]" not in plain[opening:match.start()]:  # an image
                alternative = html.escape(" ".join(text[opening + 2:match.start()].split()), quote=True)
                out += [text[last:opening], f'<img src="{link}" alt="{alternative}"/>']
                last = match.end()
            else:
                out += [text[last:start], link]
                last = end
        text = "".join([*out, text[last:]])
        return self.converted_code(text)

    @staticmethod
    def converted_code(text):
        """Doxygen ends a code span at an apostrophe or a line's end, unless it is fenced by two backticks and on one
        line; and it does not know a bold one."""
        out, last = [], 0
        for place, match in links.code_spans(text):
            if match[1] == "`":
                out += [text[last:place + match.start()], f"``{' '.join(match[2].split())}``"]
                last = place + match.end()
        text = "".join([*out, text[last:]])
        return re.sub(r"\*\*(``[^`\n]+``)\*\*", r"<b>\1</b>", text)

    def write_pages(self):
        pages = self.folder / "pages"
        pages.mkdir(parents=True)
        for page in self.pages:
            text = self.converted(page, (ROOT / page).read_text(encoding="utf-8"))
            (pages / f"{page_id(page)}.md").write_text(text, encoding="utf-8")
        reference = python_reference.reference(ROOT / "python/kvfit")
        self.files.add("python/kvfit")
        (pages / "page_python_reference.md").write_text(
            re.sub(r"^(# .*)$", r"\1 {#page_python_reference}", reference, count=1, flags=re.MULTILINE),
            encoding="utf-8")

    def write_files(self):
        """The files that pages link to, as pages with their text, or as they are."""
        for path in sorted(self.files):
            source, to = ROOT / path, self.html / self.file_page(path)
            to.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                body = "\n".join(sorted(f"{entry.name}/" if entry.is_dir() else entry.name
                                        for entry in source.iterdir() if entry.name != "__pycache__"))
            elif not self.file_page(path).endswith(f"{source.name}.html"):
                shutil.copyfile(source, to)
                continue
            else:
                body = source.read_text(encoding="utf-8")
            back = "../" * len(pathlib.PurePath(self.file_page(path)).parts[:-1])
            to.write_text(
                f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{html.escape(path)}</title>'
                f'<link rel="stylesheet" href="{back}style.css"></head><body class="file">'
                f'<p><a href="{back}index.html">kvfit</a> / {html.escape(path)}</p>'
                f"<pre>{html.escape(body)}</pre></body></html>\n", encoding="utf-8")

    # ---- Doxygen --------------------------------------------------------------------------------------
    def write_layout(self):
        """Doxygen's own layout, with our navigation."""
        layout = self.folder / "layout.xml"
        subprocess.run(["doxygen", "-l", str(layout)], check=True, stdout=subprocess.DEVNULL)
        tabs = ['<tab type="mainpage" visible="yes" title="kvfit"/>']
        for title, group in NAVIGATION:
            tabs.append(f'<tab type="usergroup" visible="yes" title="{title}" url="[none]">')
            for page in group:
                name, url = page if isinstance(page, tuple) else (self.titles[page], f"{page_id(page)}.html")
                kind = f'type="{MADE[url]}"' if url in MADE else f'type="user" url="{url}"'
                tabs.append(f'<tab {kind} visible="yes" title="{html.escape(name, quote=True)}"/>')
            tabs.append("</tab>")
        text = layout.read_text(encoding="utf-8")
        text = re.sub(r"<navindex>.*</navindex>", lambda _: "<navindex>" + "\n".join(tabs) + "</navindex>", text,
                      flags=re.DOTALL)
        layout.write_text(text, encoding="utf-8")
        return layout

    def run_doxygen(self):
        settings = (ROOT / "docs/site/Doxyfile").read_text(encoding="utf-8")
        version = re.findall(r"#define KVFIT_VERSION_(?:MAJOR|MINOR|PATCH) (\d+)",
                             (ROOT / "include/kvfit/core/version.hpp").read_text(encoding="utf-8"))
        settings += "\n".join(["", f"PROJECT_NUMBER = {'.'.join(version)}",
                               f'INPUT += "{self.folder / "pages"}"', f'LAYOUT_FILE = "{self.write_layout()}"',
                               f'OUTPUT_DIRECTORY = "{self.folder}"', "HTML_OUTPUT = html",
                               f'STRIP_FROM_PATH = "{ROOT / "include"}" "{self.folder}"',
                               f'WARN_LOGFILE = "{self.folder / "warnings.txt"}"',
                               f'USE_MDFILE_AS_MAINPAGE = "{self.folder / "pages/index.md"}"', ""])
        (self.folder / "Doxyfile").write_text(settings, encoding="utf-8")
        subprocess.run(["doxygen", str(self.folder / "Doxyfile")], check=True, cwd=ROOT)

    def check_navigation_targets(self):
        """The navigation is a script, which the check of links does not read."""
        for _, group in NAVIGATION:
            for page in group:
                url = page[1] if isinstance(page, tuple) else f"{page_id(page)}.html"
                if not (self.html / url).is_file():
                    yield f"the navigation names {url}, which Doxygen did not make"

    def mend_pages(self):
        """Doxygen links to a list of nested classes on pages that have none to show, where all are private."""
        for page in self.html.glob("class*.html"):
            text = page.read_text(encoding="utf-8")
            if 'href="#nested-classes"' in text and 'name="nested-classes"' not in text:
                page.write_text(re.sub(r'<a href="#nested-classes">[^<]*</a> *(&#124;)?', "", text), encoding="utf-8")

    def warnings(self):
        """(warnings, names left to speak for themselves). Types, functions and constants of a namespace or a file must
        be documented: by a comment of their own, or one above the paragraph that they stand in. Fields, accessors and
        constructors need none."""
        bad, plain = [], 0
        log = (self.folder / "warnings.txt").read_text(encoding="utf-8")
        for warning in log.splitlines():
            undocumented = re.match(r"^(.*?):(\d+): warning: (Member|Compound) .* is not documented\.$", warning)
            if not undocumented:
                if warning.strip():
                    bad.append(warning)
                continue
            is_free = undocumented[3] == "Compound" or re.search(r"\) of (namespace|file) ", warning)
            if is_free and not self.in_documented_paragraph(undocumented[1], int(undocumented[2])):
                bad.append(warning)
            else:
                plain += 1
        return bad, plain

    @staticmethod
    def in_documented_paragraph(file, line):
        lines = pathlib.Path(file).read_text(encoding="utf-8").split("\n")
        at = line - 1
        while at > 0 and lines[at - 1].strip():
            at -= 1
            if re.match(r"^\s*(///|/\*\*|\*)", lines[at]):
                return True
        return False


def main(arguments):
    if len(arguments) != 1:
        sys.exit(__doc__)
    folder = pathlib.Path(arguments[0]).resolve()
    shutil.rmtree(folder, ignore_errors=True)
    site = Site(folder)
    files, markdown_links, _, broken = links.check_markdown(ROOT)
    faults = [*site.check_navigation(), *broken]
    if faults:
        print("\n".join(faults))
        print(f"not built: {len(faults)} faults of pages")
        return 1
    site.write_pages()
    site.run_doxygen()
    site.mend_pages()
    site.write_files()
    warnings, plain = site.warnings()
    pages, html_links, web, broken_html = links.check_html(site.html)
    broken_html += site.check_navigation_targets()
    for fault in warnings + broken_html:
        print(fault)
    print(f"pages: {len(site.pages) + 1} written, {pages} in the site\n"
          f"warnings: {len(warnings)}; fields and accessors without a comment of their own: {plain}\n"
          f"links: {markdown_links} in {files} Markdown files, {html_links} in the site ({web} to the web, checked for form "
          f"alone); {len(broken_html)} broken\n"
          f"the site: {site.html / 'index.html'}")
    return 1 if warnings or broken_html else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
