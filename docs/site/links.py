#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Checks that links resolve.

    links.py markdown ROOT    relative links and anchors of every Markdown file below ROOT
    links.py html FOLDER      those of every HTML page below FOLDER

Web addresses are checked for their form alone: nothing is fetched. Exit code 1 where a link is broken, each named
with its file and line.
"""

import html.parser
import os
import pathlib
import re
import sys
import urllib.parse

FENCE = re.compile(r"^ *(```+|~~~+)")
CODE = re.compile(r"(`+)(?!`)(.+?)(?<!`)\1(?!`)", re.DOTALL)
LINK = re.compile(r"\]\(\s*<?([^)\s>]*)>?(?:\s+\"[^\"]*\")?\s*\)")
REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?(?:\s|$)", re.MULTILINE)
ATTRIBUTE = re.compile(r"<(?:a|img)\b[^>]*?\b(?:href|src)=\"([^\"]*)\"")
WEB = re.compile(r"^https?://[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]+)?(?:[/?#][^\s<>\"]*)?$")
SKIPPED = {"build", "node_modules", "__pycache__"}


def without_blocks(text):
    """The text with code blocks blanked: every character keeps its place."""
    lines, fence = [], None
    for line in text.split("\n"):
        mark = FENCE.match(line)
        if fence is None and mark:
            fence = mark.group(1)
            lines.append(" " * len(line))
        elif fence is not None:
            if mark and mark.group(1).startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            lines.append(" " * len(line))
        else:
            lines.append(line)
    return "\n".join(lines)


def code_spans(text):
    """Matches of CODE outside of blocks, with what to add to their places."""
    place = 0
    # A span ends with its paragraph: a lone backtick must not swallow the links behind it.
    for paragraph in re.split(r"(\n\s*\n)", without_blocks(text)):
        for match in CODE.finditer(paragraph):
            yield place, match
        place += len(paragraph)


def without_code(text):
    """The text with code blocks and code spans blanked: every character keeps its place."""
    out = list(without_blocks(text))
    for place, match in code_spans(text):
        for at in range(place + match.start(), place + match.end()):
            if out[at] != "\n":
                out[at] = " "
    return "".join(out)


def slug(heading):
    """The anchor that GitHub gives a heading."""
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    text = re.sub(r"(?<!\w)[*_]+|[*_]+(?!\w)", "", text).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


def headings(text):
    """(line, level, title, anchor) of every heading."""
    plain, lines, seen, found = without_code(text).split("\n"), text.split("\n"), {}, []
    for number, line in enumerate(plain):
        if not re.match(r"^#{1,6}\s", line):
            continue
        marks, title = lines[number].split(None, 1)
        anchor = slug(title)
        count = seen.get(anchor, 0)
        seen[anchor] = count + 1
        found.append((number, len(marks), title.strip(), f"{anchor}-{count}" if count else anchor))
    return found


def anchors(text):
    return {heading[3] for heading in headings(text)} | set(re.findall(r"<a (?:id|name)=\"([^\"]+)\"", text))


def links(text):
    """(line, target) of every link and image."""
    plain = without_code(text)
    for pattern in (LINK, REFERENCE, ATTRIBUTE):
        for match in pattern.finditer(plain):
            yield plain.count("\n", 0, match.start(1)) + 1, match.group(1)


def fault_of_address(target):
    """What is wrong with an address that is not relative, or None; "" where it is relative."""
    if target.startswith(("http:", "https:")):
        return None if WEB.match(target) else "no form of a web address"
    if target.startswith("mailto:"):
        return None if re.match(r"^mailto:[^@\s]+@[^@\s]+$", target) else "no form of a mail address"
    if re.match(r"^[A-Za-z][A-Za-z0-9+.-]*:", target):
        return "an address of unknown kind"
    return ""


def markdown_files(root):
    for folder, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if f not in SKIPPED and (not f.startswith(".") or f == ".github"))
        yield from (pathlib.Path(folder, f) for f in sorted(files) if f.endswith(".md"))


def check_markdown(root):
    root = pathlib.Path(root).resolve()
    count, web, faults, known = 0, 0, [], {}
    files = list(markdown_files(root))
    for file in files:
        for line, target in links(file.read_text(encoding="utf-8")):
            count += 1
            fault = fault_of_address(target)
            web += fault is None
            if fault == "":
                path, _, anchor = target.partition("#")
                to = file if not path else (file.parent / urllib.parse.unquote(path)).resolve()
                if path.startswith("/") or root not in (to, *to.parents):
                    fault = "leaves the repository"
                elif not to.exists():
                    fault = "no such file"
                elif anchor and to.suffix == ".md":
                    if to not in known:
                        known[to] = anchors(to.read_text(encoding="utf-8"))
                    fault = None if anchor in known[to] else f"no heading with the anchor #{anchor}"
                elif anchor:
                    fault = "an anchor in a file that is not Markdown"
                elif not target:
                    fault = "an empty link"
                else:
                    fault = None
            if fault:
                faults.append(f"{file.relative_to(root)}:{line}: {target}: {fault}")
    return len(files), count, web, faults


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links = set(), []

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name == "id" or (name == "name" and tag == "a"):
                self.ids.add(value)
            elif name in ("href", "src") and value is not None:
                self.links.append((self.getpos()[0], value))


def check_html(folder):
    folder = pathlib.Path(folder).resolve()
    pages, faults, count, web = {}, [], 0, 0
    for path in sorted(folder.rglob("*.html")):
        pages[path] = Page()
        pages[path].feed(path.read_text(encoding="utf-8"))
    for path, page in pages.items():
        for line, target in page.links:
            if target.startswith("javascript:"):
                continue
            count += 1
            fault = fault_of_address(target)
            web += fault is None
            if fault == "":
                name, _, anchor = target.partition("#")
                to = path if not name else (path.parent / urllib.parse.unquote(name.partition("?")[0])).resolve()
                anchor = urllib.parse.unquote(anchor)
                if folder not in (to, *to.parents) or not to.exists():
                    fault = "no such file"
                elif anchor and to in pages and anchor not in pages[to].ids:
                    fault = f"no element with the id {anchor}"
                else:
                    fault = None
            if fault:
                faults.append(f"{path.relative_to(folder)}:{line}: {target}: {fault}")
    return len(pages), count, web, faults


def main(arguments):
    checks = {"markdown": check_markdown, "html": check_html}
    if len(arguments) != 2 or arguments[0] not in checks or not pathlib.Path(arguments[1]).is_dir():
        sys.exit(__doc__)
    files, count, web, faults = checks[arguments[0]](arguments[1])
    for fault in faults:
        print(fault)
    print(f"{arguments[0]}: {files} files, {count} links ({web} to the web, checked for form alone), "
          f"{len(faults)} broken")
    return 1 if faults or not files else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
