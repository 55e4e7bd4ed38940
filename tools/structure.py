"""Count files, lines, functions and import cycles of the package: ``python -m tools.structure [FOLDER]``.

Lines of code exclude blank lines, comments and docstrings. A cycle is a strongly connected component of the import
graph with more than one module. Imports inside functions count, imports under ``TYPE_CHECKING`` do not.
"""

from __future__ import annotations

import argparse
import ast
import io
import statistics
import sys
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path

import networkx

_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def main() -> None:
    """Print the counts of a package."""
    parser = argparse.ArgumentParser(prog="python -m tools.structure", description=(__doc__ or "").partition(":")[0])
    default = Path(__file__).parents[1] / "ecmf_pipeline"
    parser.add_argument("folder", type=Path, nargs="?", default=default, help="folder of the package")
    folder = parser.parse_args().folder.resolve()
    texts = {path: path.read_text(encoding="utf-8") for path in sorted(folder.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    code = [len(lines_of_code(text, trees[path])) for path, text in texts.items()]
    functions = [node for tree in trees.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    bodies = [body_lines(node) for node in functions]
    cycles = import_cycles({module_name(path, folder): tree for path, tree in trees.items()})
    counts = {
        "files": len(texts),
        "files at the top level": sum(path.parent == folder for path in texts),
        "lines": sum(text.count("\n") for text in texts.values()),
        "lines of code": sum(code),
        "lines of code per file": f"mean {sum(code) / len(code):.0f}, median {statistics.median(code):.0f}",
        "files with 1 to 39 lines of code": sum(1 <= lines < 40 for lines in code),
        "files with more than 400 lines": sum(text.count("\n") > 400 for text in texts.values()),
        "classes": sum(isinstance(node, ast.ClassDef) for tree in trees.values() for node in ast.walk(tree)),
        "functions": len(functions),
        "lines per function": f"median {statistics.median(bodies):.0f} (body without docstring)",
        "import cycles": len(cycles),
        "modules in import cycles": sum(map(len, cycles)),
    }
    for name, count in counts.items():
        sys.stdout.write(f"{name:<34}{count}\n")
    for cycle in cycles:
        sys.stdout.write(f"  cycle of {len(cycle)}: {', '.join(cycle)}\n")


def lines_of_code(text: str, tree: ast.Module) -> set[int]:
    """Return the numbers of the lines that hold code."""
    numbers = {
        line
        for token in tokenize.generate_tokens(io.StringIO(text).readline)
        if token.type not in _NOT_CODE
        for line in range(token.start[0], token.end[0] + 1)
    }
    for node in ast.walk(tree):
        for statement in getattr(node, "body", []) if isinstance(getattr(node, "body", []), list) else []:
            # Docstrings, also those of constants.
            if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
                numbers -= set(range(statement.lineno, (statement.end_lineno or statement.lineno) + 1))
    return numbers


def body_lines(function: ast.FunctionDef) -> int:
    """Return the number of lines of the body of a function, without its docstring."""
    first, *others = function.body
    if ast.get_docstring(function) is not None:
        if not others:
            return 0
        first = others[0]
    return (function.end_lineno or first.lineno) - first.lineno + 1


def import_cycles(trees: Mapping[str, ast.Module]) -> list[list[str]]:
    """Return the import cycles, the largest first; see the module docstring."""
    graph: networkx.DiGraph = networkx.DiGraph()
    for module, tree in trees.items():
        for base, name in _imports(tree):
            target = f"{base}.{name}" if f"{base}.{name}" in trees else base
            if target in trees and target != module:
                graph.add_edge(module, target)
    cycles = [sorted(part) for part in networkx.strongly_connected_components(graph) if len(part) > 1]
    return sorted(cycles, key=lambda cycle: (-len(cycle), cycle))


def _imports(node: ast.AST) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and isinstance(child.test, ast.Name) and child.test.id == "TYPE_CHECKING":
            continue
        if isinstance(child, ast.Import):
            for alias in child.names:
                yield alias.name, ""
        elif isinstance(child, ast.ImportFrom) and child.module:
            for alias in child.names:
                yield child.module, alias.name
        else:
            yield from _imports(child)


def module_name(path: Path, folder: Path) -> str:
    """Return the dotted name of a module in the package folder."""
    parts = path.relative_to(folder.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


if __name__ == "__main__":
    main()
