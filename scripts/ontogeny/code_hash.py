"""The code behind a command as one hash: an edit reruns what depends on it, a better comment reruns nothing."""

import ast
import hashlib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PACKAGE = "ontogeny"


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
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
    return tuple(path for name in names if name.split(".")[0] == PACKAGE for path in _files(scripts, name))


def _files(scripts: Path, module: str) -> Iterator[Path]:
    """Yield the files that importing `module` runs: its own, if it is a module, and those of its packages."""
    parts = module.split(".")
    for depth in range(1, len(parts) + 1):
        path = scripts.joinpath(*parts[:depth])
        for file in (path / "__init__.py", path.with_suffix(".py")):
            if file.is_file():
                yield file


class _WithoutRemarks(ast.NodeTransformer):
    """Drop what does not change what a module does."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt] | None:
        if ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            return [self.visit(statement) for statement in node.orelse]
        return self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> ast.AST | None:
        if node.module == "typing":
            node.names = [alias for alias in node.names if alias.name != "TYPE_CHECKING"]
        return node if node.names else None

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)
