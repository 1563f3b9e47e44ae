"""Expressions of a foreign bundle, by exact syntax: a small language of our own that looks like Python.

    numbers, words, True, False, None, lists, tuples        1.5, 'image', [1, 2]
    references                                              @spatial_size, @window::size, @names[0]
    sums of numbers, words or lists; - * / // % of numbers  @out // 2, @bundle_root + '/models', @loading + @scaling
    comparisons, and, or, not, a if b else c
    list, tuple, len, range, int, float, min, max
    torch.device(...)                                       the CPU: where a model runs is not for a bundle to say
    torch.cuda.is_available()                               False
    names of number types and of MONAI's common keys        torch.float32, monai.utils.CommonKeys.IMAGE

Python's parser makes the tree; no part of it is compiled or evaluated by Python. Whatever is not listed is refused.
"""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from dicom_io.errors import Rejected

_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)")
_PLACE = "reference_in_place_"
# Expressions of the zoo have at most some 150 letters; longer ones could make Python's own parser run out of stack.
_LONGEST = 600
_LARGEST = 2**53
_MOST = 4096

_BINARY: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_COMPARED: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_NAMED: Mapping[str, str] = {
    **{f"{of}.{name}": name for of in ("torch", "np", "numpy") for name in ("float16", "float32", "float64", "uint8")},
    "torch.float": "float32",
    "torch.half": "float16",
    **{f"monai.utils.CommonKeys.{name.upper()}": name for name in ("image", "label", "pred")},
}
_CALLED: Mapping[str, Callable[..., Any]] = {
    "list": list,
    "tuple": tuple,
    "len": len,
    "int": int,
    "float": float,
    "min": min,
    "max": max,
}


class _NotListed(Exception):
    """The word says what."""


def evaluate(text: str, value_of: Callable[[str], Any], where: str) -> Any:
    """The value of an expression, without its "$". value_of: of the id of a reference.

    Raises:
        Rejected: it holds anything that is not listed above; the sentence names the key.
    """
    names: list[str] = []

    def placed(found: re.Match[str]) -> str:
        names.append(found[1])
        return f"{_PLACE}{len(names) - 1}"

    try:
        if len(text) > _LONGEST:
            raise _NotListed(f"{len(text)} letters")
        if _PLACE in text:
            raise _NotListed(_PLACE)
        tree = ast.parse(_REFERENCE.sub(placed, text.strip()), mode="eval")
        return _Reader(names, value_of).value(tree.body)
    except _NotListed as error:
        raise Rejected(_sentence(text, where, str(error))) from error
    except (SyntaxError, ValueError, TypeError, ArithmeticError, LookupError, RecursionError, MemoryError) as error:
        raise Rejected(_sentence(text, where, str(error) or type(error).__name__)) from error


def _sentence(text: str, where: str, why: str) -> str:
    shown = text if len(text) <= 120 else f"{text[:117]}..."
    return (
        f"{where}: '${shown}' is not evaluated: {why} is not on the list of harmless expressions; write its plain "
        "value into a copy of the bundle"
    )


class _Reader:
    def __init__(self, names: Sequence[str], value_of: Callable[[str], Any]) -> None:
        self._names = names
        self._value_of = value_of

    def value(self, node: ast.expr) -> Any:
        """Of one node; only that branch of a condition is read that counts."""
        if isinstance(node, ast.Constant):
            return _constant(node)
        if isinstance(node, ast.Name) and node.id.startswith(_PLACE):
            return self._value_of(self._names[int(node.id.removeprefix(_PLACE))])
        if isinstance(node, ast.List | ast.Tuple):
            elements = [self.value(element) for element in node.elts]
            return elements if isinstance(node, ast.List) else tuple(elements)
        if isinstance(node, ast.IfExp):
            return self.value(node.body if self.value(node.test) else node.orelse)
        if isinstance(node, ast.BoolOp):
            return self._chosen(node)
        if isinstance(node, ast.UnaryOp):
            return _unary(node, self.value(node.operand))
        if isinstance(node, ast.BinOp):
            return _bounded(_binary(node, self.value(node.left), self.value(node.right)))
        if isinstance(node, ast.Compare):
            return self._compared(node)
        if isinstance(node, ast.Subscript):
            return _element(self.value(node.value), self.value(node.slice))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in _NAMED:
            return _NAMED[ast.unparse(node)]
        if isinstance(node, ast.Call):
            return self._called(node)
        raise _NotListed(f"'{_shown(node, self._names)}'")

    def _chosen(self, node: ast.BoolOp) -> Any:
        result: Any = None
        for each in node.values:
            result = self.value(each)
            if bool(result) is isinstance(node.op, ast.Or):
                break
        return result

    def _compared(self, node: ast.Compare) -> bool:
        compare = _COMPARED.get(type(node.ops[0]))
        if compare is None or len(node.ops) != 1:
            raise _NotListed(f"'{_shown(node, self._names)}'")
        left, right = self.value(node.left), self.value(node.comparators[0])
        if not all(isinstance(side, str | int | float | None) for side in (left, right)):
            raise _NotListed(f"a comparison of {type(left).__name__} and {type(right).__name__}")
        return compare(left, right)

    def _called(self, node: ast.Call) -> Any:
        name = ast.unparse(node.func)
        if name == "torch.cuda.is_available" and not node.args and not node.keywords:
            return False
        arguments = [] if node.keywords else [self.value(argument) for argument in node.args]
        if name == "torch.device" and len(arguments) == 1 and isinstance(arguments[0], str):
            return "cpu"
        if name == "range" and arguments and all(type(each) is int for each in arguments):
            return _bounded(range(*arguments))
        if name not in _CALLED or not arguments:
            raise _NotListed(f"'{_shown(node, self._names)}'")
        return _bounded(_CALLED[name](*arguments))


def _constant(node: ast.Constant) -> Any:
    value = node.value
    if isinstance(value, str) and _PLACE in value:
        raise _NotListed("a reference inside a word")
    if not isinstance(value, str | int | float | None):
        raise _NotListed(repr(value))
    return _bounded(value)


def _unary(node: ast.UnaryOp, value: Any) -> Any:
    if isinstance(node.op, ast.Not):
        return not value
    if isinstance(node.op, ast.USub) and _is_number(value):
        return -value
    raise _NotListed(f"'{ast.unparse(node)}'")


def _binary(node: ast.BinOp, left: Any, right: Any) -> Any:
    operate = _BINARY.get(type(node.op))
    numbers = _is_number(left) and _is_number(right)
    joined = isinstance(node.op, ast.Add) and type(left) is type(right) and isinstance(left, str | list | tuple)
    if operate is None or not (numbers or joined):
        raise _NotListed(f"{type(node.op).__name__} of {type(left).__name__} and {type(right).__name__}")
    return operate(left, right)


def _element(of: Any, place: Any) -> Any:
    if isinstance(of, Mapping) and isinstance(place, str):
        return of[place]
    if isinstance(of, list | tuple) and type(place) is int:
        return of[place]
    raise _NotListed(f"element {place!r} of a {type(of).__name__}")


def _bounded(value: Any) -> Any:
    """What stays small: nothing here may fill the memory."""
    if isinstance(value, str | list | tuple | range) and len(value) > _MOST:
        raise _NotListed(f"something of {len(value)} elements")
    if _is_number(value) and not abs(value) <= _LARGEST:
        raise _NotListed("a number that large")
    return value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def _shown(node: ast.expr, names: Sequence[str]) -> str:
    """The source of a node, with references as they stood."""
    return re.sub(rf"{_PLACE}(\d+)", lambda found: f"@{names[int(found[1])]}", ast.unparse(node))
