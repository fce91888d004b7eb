"""Counts how large each package of ``lib``, and the tests, are: ``python -m tests.size``.

A line of code has something besides comments, docstrings and blanks. Tokens are Python's own but
for comments, docstrings and what layout alone makes (line ends, indentation). Of a function's
lines its docstring is left out. Standard library only, so that any checkout can be counted:
``python -m tests.size FOLDER``.
"""

import ast
import csv
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

#: A function of more lines than this is named.
LONG = 60

COLUMNS = ("package", "files", "lines", "code", "tokens")

_LAYOUT = {
    *(tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT),
    *(tokenize.ENCODING, tokenize.ENDMARKER),
}
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def docstring(node: ast.AST) -> range:
    """The lines of a module's, class's or function's docstring, empty without one."""
    body = getattr(node, "body", None)
    if isinstance(node, (ast.Module, ast.ClassDef, *_FUNCTIONS)) and ast.get_docstring(node, False):
        return range(body[0].lineno, body[0].end_lineno + 1)
    return range(0)


def counted(file: Path) -> Counter:
    """The columns of one file."""
    text = file.read_text()
    said = {line for node in ast.walk(ast.parse(text)) for line in docstring(node)}
    tokens = [
        token
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _LAYOUT
        and not (token.type == tokenize.STRING and token.start[0] in said)
    ]
    code = {line for token in tokens for line in range(token.start[0], token.end[0] + 1)}
    return Counter(files=1, lines=text.count("\n"), code=len(code), tokens=len(tokens))


def sizes(root: Path) -> dict[str, Counter]:
    """Package → its columns, subpackages apart; then ``lib`` and ``tests`` as a whole."""
    found: dict[str, Counter] = {}
    for whole in ("lib", "tests"):
        for file in sorted((root / whole).rglob("*.py")):
            package = ".".join(file.relative_to(root).parts[:-1])
            for name in {f"{package} (top level)" if package == "lib" else package, whole}:
                found[name] = found.get(name, Counter()) + counted(file)
    return dict(sorted(found.items()))


def long_functions(root: Path) -> dict[str, int]:
    """File and function of ``lib`` → its lines without the docstring, where they are too many."""
    found = {}
    for file in (root / "lib").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, _FUNCTIONS):
                lines = node.end_lineno - node.lineno + 1 - len(docstring(node))
                if lines > LONG:
                    found[f"{file.relative_to(root)} {node.name}"] = lines
    return found


def main(root: Path) -> None:
    table = csv.writer(sys.stdout, lineterminator="\n")
    table.writerow(COLUMNS)
    table.writerows([name, *map(size.get, COLUMNS[1:])] for name, size in sizes(root).items())
    modules = {file: counted(file)["lines"] for file in (root / "lib").rglob("*.py")}
    longest = max(modules, key=modules.get)
    print(f"# longest module: {longest.relative_to(root)}, {modules[longest]} lines")
    for name, lines in sorted(long_functions(root).items()):
        print(f"# function of over {LONG} lines: {name}, {lines}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "."))
