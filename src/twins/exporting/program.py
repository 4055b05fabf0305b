"""Inspection of the program in a `.pt2`: PyTorch evaluates, imports and prints parts of it as Python code.

Its loader evaluates the expressions of sizes, resolves operators by attributes of `torch`, imports modules that the
structure of inputs and outputs names, and writes names into the source of a function. So each text of the program has
to be what its place in the schema needs: a name, an operator, an expression over sizes, a nest of containers.
"""

from __future__ import annotations

import ast
import json
import re
from typing import Any


class Unsafe(Exception):
    """A part of an archive that an exported network does not need, and that could run code."""


_NAME = re.compile(r"[\w.]*", re.ASCII)
_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten|torchvision|prims)\.(?!save\b|from_file\b)\w+(?:\.\w+)?"
    r"|torch\.ops\.higher_order\.(?:cond|while_loop|map_impl|scan|associative_scan|wrap_with_set_grad_enabled)"
    r"|torch\.(?:sym_(?:max|min|not|float|int|ite|sum)|_sym_sqrt)|math\.(?:trunc|ceil|floor)"
    r"|_operator\.(?:add|sub|mul|truediv|floordiv|mod|pow|neg|pos|eq|ne|lt|le|gt|ge|and_|or_|lshift|rshift|getitem)",
    re.ASCII,
)
"""Operators of networks, of control flow, and of sizes. `save` and `from_file` of `aten` write and map files."""
_FUNCTION = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|And|Or|Not|Xor|Equality|Unequality|"
    r"StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|Eq|Ne|Lt|Le|Gt|Ge|ceiling|floor|Piecewise|"
    r"ExprCondPair|Abs|FloorDiv|ModularIndexing|Where|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|"
    r"LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|IsNonOverlappingAndDenseIndicator|"
    r"TruncToFloat|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity"
)
"""Functions of expressions over sizes, of SymPy and of PyTorch."""
_CONSTANTS = frozenset(("true", "false", "oo", "int_oo", "nan"))
_SYNTAX = (ast.Expression, ast.Call, ast.keyword, ast.Load, ast.UnaryOp, ast.USub, ast.Tuple, ast.Constant)
_CONTAINERS = (None, "builtins.tuple", "builtins.list", "builtins.dict")
_METADATA = frozenset(("stack_trace", "nn_module_stack", "torch_fn"))
"""Metadata of an operation that the loader keeps as text."""
_NUMBERS = frozenset(("Infinity", "-Infinity", "NaN"))
"""Texts that stand for numbers that JSON does not have."""
_FREE = frozenset(("as_string", "as_strings", "torch_version", "guards_code"))
"""Texts that stay texts. Guards would run as code; sessions do not use them."""


def check_program(program: dict[str, Any]) -> None:
    """Check the JSON of an exported program, `models/model.json` of an archive.

    Raises:
        Unsafe: it could run code.
    """
    check_values(program)


def check_values(value: Any, key: str = "") -> None:
    """Check a value of the JSON and all inside it; `key` is the name of the field that holds it.

    Raises:
        Unsafe: a text is not what its field needs.
    """
    if isinstance(value, dict):
        for name, inner in value.items():
            _check_text(name, "")
            if key == "metadata":
                _check_metadata(name)
            else:
                check_values(inner, name)
    elif isinstance(value, list):
        for inner in value:
            check_values(inner, key)
    elif isinstance(value, str):
        _check_text(value, key)


def _check_text(text: str, key: str) -> None:
    if key in ("target", "as_operator"):
        if not _OPERATOR.fullmatch(text):
            raise Unsafe(f"its program calls {text:.80}, which is no operator of a network")
    elif key == "expr_str":
        check_expression(text)
    elif key in ("in_spec", "out_spec"):
        _check_structure(json.loads(text)[1])
    elif key in ("as_float", "as_floats") and text in _NUMBERS:
        return
    elif key not in _FREE and not _NAME.fullmatch(text):
        raise Unsafe(f"its program has {text!r:.80} in the field {key or 'name'}")


def _check_metadata(name: str) -> None:
    if name not in _METADATA:
        raise Unsafe(f"its program has the metadata {name:.80}")


def check_expression(text: str) -> None:
    """Check an expression over sizes, such as `Mul(Integer(2), Symbol('s0', positive=True))`: PyTorch evaluates it.

    Raises:
        Unsafe: it is more than numbers and symbols in the functions that sizes need.
    """
    try:
        nodes = list(ast.walk(ast.parse(text, mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise Unsafe(f"its program has the expression {text!r:.80}") from error
    calls = [node for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    functions = {id(call.func) for call in calls}
    texts = {id(argument) for call in calls if _is_text_function(call) for argument in call.args}
    for node in nodes:
        if not _is_harmless(node, is_function=id(node) in functions, may_be_text=id(node) in texts):
            raise Unsafe(f"its program has the expression {text!r:.80}")


def _is_text_function(call: ast.Call) -> bool:
    """Return whether a function takes a text: the name of a symbol, the digits of a number."""
    return isinstance(call.func, ast.Name) and call.func.id in ("Symbol", "Float")


def _is_harmless(node: ast.AST, *, is_function: bool, may_be_text: bool) -> bool:
    """Return whether a node of the syntax tree of an expression is of one of the kinds that sizes need."""
    if isinstance(node, ast.Name):
        return bool(_FUNCTION.fullmatch(node.id)) if is_function else node.id in _CONSTANTS
    if isinstance(node, ast.Constant) and isinstance(node.value, str | bytes):
        return may_be_text and isinstance(node.value, str) and bool(_NAME.fullmatch(node.value))
    return isinstance(node, _SYNTAX)


def _check_structure(node: dict[str, Any]) -> None:
    """Check the nest of containers of a program's inputs or outputs, whose other types PyTorch imports by name."""
    if node["type"] not in _CONTAINERS:
        raise Unsafe(f"its program has a container of type {node['type']!r:.80}")
    keys = json.loads(node["context"] or "null") or []
    if not isinstance(keys, list) or not all(isinstance(key, str) and _NAME.fullmatch(key) for key in keys):
        raise Unsafe(f"its program has a container with the context {node['context']!r:.80}")
    for child in node["children_spec"]:
        _check_structure(child)
