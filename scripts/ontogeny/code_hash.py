"""The code behind a command as one hash: an edit reruns what depends on it, a better comment reruns nothing."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "ontogeny"
BLOCKS = ("body", "handlers", "orelse", "finalbody", "cases")
"""Where statements hold statements."""


def code_hash(scripts: Path, script: str, *modules: str) -> str:
    """Hash a script and every project module that it imports, transitively.

    Docstrings, comments, formatting, annotations of functions and what stands under `if TYPE_CHECKING` do not count.

    Args:
        scripts: folder of the scripts and of the package.
        script: name of the script, such as `rows.py`.
        modules: modules that the script imports by a name known only when it runs, such as `ontogeny.figures.pareto`.
    """
    digest = hashlib.sha256()
    for file in closure(scripts, script, *modules):
        digest.update(f"{file.relative_to(scripts).as_posix()}\0{_meaning(file)}\0".encode())
    return digest.hexdigest()[:16]


def hash_of_files(*folders: Path) -> str:
    """Hash the files of some folders, which scripts read besides modules, such as templates of pages."""
    digest = hashlib.sha256()
    for file in sorted(file for folder in folders for file in folder.iterdir() if file.is_file()):
        digest.update(f"{file.parent.name}/{file.name}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def closure(scripts: Path, script: str, *modules: str) -> list[Path]:
    """List the files of a script and of every project module that it imports, transitively, in order of path."""
    found: set[Path] = set()
    waiting = [scripts / script, *(file for module in modules for file in _files(scripts, module))]
    while waiting:
        file = waiting.pop()
        if file not in found:
            found.add(file)
            waiting += _imports(scripts, file)
    return sorted(found)


@cache
def _tree(file: Path) -> ast.Module:
    tree: ast.Module = _WithoutRemarks().visit(ast.parse(file.read_text(encoding="utf-8"), str(file)))
    return tree


@cache
def _meaning(file: Path) -> str:
    return ast.dump(_tree(file))


@cache
def _imports(scripts: Path, file: Path) -> tuple[Path, ...]:
    names: list[str] = []
    for node in _statements(_tree(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(path for name in names if name.split(".")[0] == PACKAGE for path in _files(scripts, name))


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Yield the statements under a node, without the expressions in them, which are most of a tree."""
    for block in BLOCKS:
        # A lambda has a body too, and it is an expression.
        if isinstance(inner := getattr(node, block, None), list):
            for statement in inner:
                yield statement
                yield from _statements(statement)


@cache
def _files(scripts: Path, module: str) -> tuple[Path, ...]:
    """List the files that importing `module` runs: its own, if it is a module, and those of its packages."""
    parts = module.split(".")
    paths = [scripts.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    files = [file for path in paths for file in (path / "__init__.py", path.with_suffix(".py"))]
    return tuple(file for file in files if file.is_file())


class _WithoutRemarks(ast.NodeTransformer):
    """Drop what does not change what a module does."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        """Visit the statements under a node."""
        for block in BLOCKS:
            if isinstance(inner := getattr(node, block, None), list):
                kept = [self.visit(statement) for statement in inner]
                inner[:] = [part for own in kept for part in (own if isinstance(own, list) else [own]) if part]
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        test = node.test
        if (test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", None)) == "TYPE_CHECKING":
            return [self.visit(statement) for statement in node.orelse]
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module == "typing":
            node.names = [alias for alias in node.names if alias.name != "TYPE_CHECKING"]
        return node if node.names else None

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        arguments = node.args
        for argument in (
            *arguments.posonlyargs,
            *arguments.args,
            *arguments.kwonlyargs,
            arguments.vararg,
            arguments.kwarg,
        ):
            if argument:
                argument.annotation = None
        node.returns = None
        return self.generic_visit(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        return self.visit_FunctionDef(node)
