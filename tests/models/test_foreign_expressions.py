"""The closed reader of expressions: what it takes it takes as Python would, and it takes nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dicom_io.errors import Rejected
from models.foreign import expressions

VALUES: dict[str, Any] = {"a": 7, "b": 2.5, "sizes": [4, 5, 6], "names": {"x": "left"}, "yes": True, "deep::est": 3}


def evaluate(text: str) -> Any:
    return expressions.evaluate(text, VALUES.__getitem__, "key")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("@a + @b * 2", 12.0),
        ("-@a // 2 % 3", -7 // 2 % 3),
        ("[1] + @sizes", [1, 4, 5, 6]),
        ("(1, 2) + (3,)", (1, 2, 3)),
        ("list(range(@a))[2]", 2),
        ("tuple([@a, 'x'])", (7, "x")),
        ("len(@sizes) if @yes and not @a < 3 else None", 3),
        ("@sizes[-1]", 6),
        ("@names['x'] + '/models'", "left/models"),
        ("@deep::est == 3", True),
        ("max(@a, 9) - min([1, 2])", 8),
        ("int(@b) + float('1e2')", 102.0),
        ("torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')", "cpu"),
        ("torch.device('cuda:1')", "cpu"),
        ("torch.float32", "float32"),
        ("monai.utils.CommonKeys.IMAGE", "image"),
        # Of a condition only the branch that counts is read.
        ("1 if @yes else __import__('os').system('touch pwned')", 1),
    ],
)
def test_a_harmless_expression_has_the_value_that_python_gives_it(text, value):
    assert evaluate(text) == value
    assert type(evaluate(text)) is type(value)


@given(st.recursive(st.integers(-9, 9).map(str), lambda below: st.tuples(below, st.sampled_from("+-*"), below).map(
    lambda three: f"({three[0]} {three[1]} {three[2]})"), max_leaves=12))  # fmt: skip
def test_sums_of_numbers_are_those_of_python(text):
    assert evaluate(text) == eval(text)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('touch pwned')",
        "import os",
        "open('pwned', 'w')",
        "@names.__class__.__mro__",
        "().__class__.__bases__[0].__subclasses__()",
        "(lambda: 1)()",
        "[x for x in @sizes]",
        "{'image': 1}",
        "f'{@a}'",
        "@a if @yes",
        "@sizes[0:2]",
        "@sizes[True]",
        "@names[@names]",
        "print(@a)",
        "list(@sizes, key=print)",
        "torch.load('models/model.pt')",
        "torch.device(@a)",
        "torch.cuda.is_available(1)",
        "torch.float32.__class__",
        "monai.utils.CommonKeys.__dict__",
        "os.path.join(@names['x'], 'models')",
        "9 ** 9",
        "1 << 40",
        "[0] * 10000000",
        "'x' * 10000000",
        "range(10 ** 9)",
        "list(range(1000000))",
        "9007199254740991 * 9007199254740991",
        "float('nan')",
        "'@a'",
        "'reference_in_place_0'",
        "reference_in_place_0",
        "1 / 0",
        "@sizes[9]",
        "@sizes + @a",
        "b'x'",
        "1j",
        "...",
        "(x := 3)",
        "await @a",
        "*@sizes",
        "1 < @a < 9",
        "@a is @a",
        "~1",
        "@sizes == @sizes",
        "1; 2",
        "",
        "(" * 590,
        "-" * 600 + "1",
        "1" + " + 1" * 400,
        "@a\x00",
    ],
)
def test_anything_else_is_refused_by_key(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Rejected, match=r"^key: '\$.* is not evaluated"):
        evaluate(text)
    assert not list(tmp_path.iterdir())


def test_a_reference_that_is_not_there_is_refused():
    with pytest.raises(Rejected, match="is not evaluated"):
        evaluate("@nobody + 1")


def test_nothing_of_torch_or_numpy_is_reached_by_name():
    for name in ("torch", "np", "numpy", "monai", "builtins"):
        with pytest.raises(Rejected):
            evaluate(f"{name}.save")
