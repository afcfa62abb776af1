#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""The Python reference as Markdown, from the docstrings of a package: python_reference.py FOLDER.

What is public is what `__all__` names, in a module without it what has no leading underscore. A public class or
function without a docstring is an error. Nothing is imported: the library need not be there.
"""

import ast
import inspect
import pathlib
import sys


def public_names(tree):
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return [ast.literal_eval(item) for item in node.value.elts]
    return [node.name for node in tree.body
            if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and not node.name.startswith("_")]


def imported_from(tree, name):
    """The module of the package that a public name comes from, where the tree imports it."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.level == 1 and name in [alias.name for alias in node.names]:
            return node.module
    return None


def defined(tree, name):
    for node in tree.body:
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and node.name == name:
            return node
    return None


def doc_of(node, where):
    text = ast.get_docstring(node)
    if not text:
        raise SystemExit(f"python_reference: {where} has no docstring")
    return inspect.cleandoc(text)


def signature(node, name):
    arguments = ast.unparse(node.args)
    for first in ("self, ", "self", "cls, ", "cls"):
        if arguments.startswith(first):
            arguments = arguments[len(first):]
            break
    returned = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    one_line = f"{name}({arguments}){returned}"
    if len(one_line) <= 100:
        return one_line
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(arguments):
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append(arguments[start:place + 1].strip())
            start = place + 1
    parts.append(arguments[start:].strip())
    return "\n".join([f"{name}(", *(f"    {part}" for part in parts), f"){returned}"])


def of_function(node, module):
    return [f"### {node.name}", "", "```py", signature(node, f"{module}.{node.name}"), "```", "",
            doc_of(node, f"{module}.{node.name}"), ""]


def of_class(node, module):
    lines = [f"### {node.name}", "", doc_of(node, f"{module}.{node.name}"), ""]
    fields = [item for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)]
    if fields:
        lines += ["```py", *(f"{item.target.id}: {ast.unparse(item.annotation)}" for item in fields), "```", ""]
    for item in node.body:
        if not isinstance(item, ast.FunctionDef):
            continue
        if item.name == "__init__" and not ast.get_docstring(item):
            continue  # made by the library; the class says how
        if item.name.startswith("_") and item.name != "__init__":
            continue
        name = node.name if item.name == "__init__" else item.name
        text = ast.get_docstring(item)
        lines += ["```py", signature(item, name), "```", "", *([inspect.cleandoc(text), ""] if text else [])]
    return lines


def reference(folder):
    folder = pathlib.Path(folder)
    trees = {path.stem: ast.parse(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*.py"))}
    lines = ["# Python reference", "",
             "Made from the docstrings of [python/kvfit](files/python/kvfit.html). "
             "[C and Python](page_c_and_python.html) is the guide.", ""]
    for module, tree in trees.items():
        if module.startswith("_") and module != "__init__":
            continue
        name = folder.name if module == "__init__" else f"{folder.name}.{module}"
        lines += [f"## {name}", "", doc_of(tree, name), ""]
        for public in public_names(tree):
            node = defined(tree, public)
            if node is None and imported_from(tree, public) in trees:
                node = defined(trees[imported_from(tree, public)], public)
            if node is None:
                raise SystemExit(f"python_reference: {name}.{public} is named in __all__ and not defined")
            lines += (of_class if isinstance(node, ast.ClassDef) else of_function)(node, name)
    return "\n".join(lines)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    print(reference(sys.argv[1]))
