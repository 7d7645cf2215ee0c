"""One object of the code as Markdown, read from its source: signature, fields, docstring.

    describe("diffc.api.compile")     a function or class
    describe("diffc.report.blocks")   a module: its docstring, then its public functions and classes

Nothing is imported, so the page needs neither torch nor a runtime.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEADS = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):$")
Function = ast.FunctionDef | ast.AsyncFunctionDef


def describe(name: str) -> str:
    """Return the Markdown of a module, or of a class or function in one.

    Raises:
        KeyError: There is no such module, or nothing of that name in it.
    """
    path = _module_file(name)
    if path is not None:
        return "\n".join(Source(path.read_text("utf-8")).module(name))
    module, _, thing = name.rpartition(".")
    path = _module_file(module)
    if path is None:
        raise KeyError(f"there is no module {module}")
    source = Source(path.read_text("utf-8"))
    for node in source.tree.body:
        if isinstance(node, ast.ClassDef | Function) and node.name == thing:
            return "\n".join(source.thing(node, module))
    raise KeyError(f"{module} has no {thing}")


def _module_file(name: str) -> Path | None:
    inside = Path(*name.split("."))
    for root in (ROOT, ROOT / "export"):
        for path in (root / inside.with_suffix(".py"), root / inside / "__init__.py"):
            if path.is_file():
                return path
    return None


class Source:
    """A file of Python, described as it is written."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tree = ast.parse(text)

    def module(self, name: str) -> Iterator[str]:
        """The lines on the whole file."""
        yield from _docstring(self.tree)
        for node in self.tree.body:
            if isinstance(node, ast.ClassDef | Function) and not node.name.startswith("_"):
                yield ""
                yield from self.thing(node, name)

    def thing(self, node: ast.ClassDef | Function, module: str) -> Iterator[str]:
        """The lines on one function or class of ``module``."""
        yield from (f"### `{node.name}`", "", f"In `{module}`.", "")
        if isinstance(node, Function):
            yield from _code(self._signature(node))
            yield from _docstring(node)
            return
        bases = ", ".join(ast.unparse(base) for base in node.bases)
        fields = [line for part in node.body for line in self._field(part)]
        head = f"class {node.name}" + (f"({bases})" if bases else "")
        yield from _code(head + (":" if fields else ""), *fields)
        yield from _docstring(node)
        for part in node.body:
            if isinstance(part, Function) and not part.name.startswith("_"):
                yield ""
                yield from _code(self._signature(part))
                yield from _docstring(part)

    def _field(self, node: ast.stmt) -> Iterator[str]:
        """The line of an annotated public attribute, or of a member of an enum."""
        target = node.target if isinstance(node, ast.AnnAssign) else None
        if isinstance(node, ast.Assign):
            target = node.targets[0]
        if isinstance(target, ast.Name) and not target.id.startswith(("_", "model_config")):
            yield f"    {self._written(node)}"

    def _signature(self, node: Function) -> str:
        """``def name(...) -> ...``, an argument a line where it would be wide."""
        result = f" -> {self._written(node.returns)}" if node.returns else ""
        marks = [f"@{ast.unparse(mark)}" for mark in node.decorator_list]
        shown = [mark for mark in marks if mark in ("@property", "@classmethod", "@staticmethod")]
        arguments = self._arguments(node.args)
        line = f"def {node.name}({', '.join(arguments)}){result}"
        if len(line) > 90:
            line = f"def {node.name}(\n    " + ",\n    ".join(arguments) + f",\n){result}"
        return "\n".join([*shown, line])

    def _arguments(self, args: ast.arguments) -> list[str]:
        plain = [*args.posonlyargs, *args.args]
        defaults: list[ast.expr | None] = [None] * (len(plain) - len(args.defaults))
        rows = [
            self._argument(*pair) for pair in zip(plain, [*defaults, *args.defaults], strict=True)
        ]
        if args.vararg:
            rows.append(f"*{self._written(args.vararg)}")
        elif args.kwonlyargs:
            rows.append("*")
        rows += [
            self._argument(*pair) for pair in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        ]
        return rows + ([f"**{self._written(args.kwarg)}"] if args.kwarg else [])

    def _argument(self, arg: ast.arg, default: ast.expr | None) -> str:
        equals = " = " if arg.annotation else "="
        return self._written(arg) + (equals + self._written(default) if default else "")

    def _written(self, node: ast.AST) -> str:
        return ast.get_source_segment(self.text, node) or ast.unparse(node)


def _code(*lines: str) -> Iterator[str]:
    """A fence that no test runs: those run ``python``."""
    yield from ("```py", *lines, "```", "")


def _docstring(node: ast.Module | ast.ClassDef | Function) -> Iterator[str]:
    """The docstring, its sections of arguments and errors as lists."""
    in_section = False
    for line in inspect.cleandoc(ast.get_docstring(node) or "").splitlines():
        head = HEADS.match(line)
        if head:
            in_section = True
            yield from (f"**{head[1]}**", "")
        elif in_section and re.match(r"    \S", line):
            yield f"- {_entry(line.strip())}"
        elif in_section and line.strip():
            in_section = line.startswith(" ")
            yield f"  {line.strip()}" if in_section else line
        else:
            yield line


def _entry(line: str) -> str:
    name, colon, text = line.partition(": ")
    is_name = bool(colon) and re.fullmatch(r"[\w*., ]+", name) is not None
    return f"`{name}`: {text}" if is_name else line
