"""Free text with a closed vocabulary (PS3.15 E.3.5, Clean Descriptors): it is kept when each of its words is in it.

Words that are safe are listed in `descriptor_words.txt`; nobody's name can be told from a word that is not there, so
one such word removes the whole text ("CT chest abdomen - 55F Dr. Smith" goes, "CT chest abdomen" stays). A single digit
and a number with a unit (up to four digits: "3 mm", "1000ms") are words, too; other numbers may be ages, dates or
identifiers.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

_UNITS = "mm|cm|um|ms|s|sec|min|hz|khz|mhz|kv|kvp|mas|t|deg|mg|ml|mci|mbq|bq|ev|kev|mev"
_MEASURE = re.compile(rf"\d{{1,4}}({_UNITS})")
# A number and its unit stay together, also where a space or a point stands between.
_WITH_UNIT = re.compile(rf"\b\d{{1,4}}(?:\.\d{{1,3}})?\s?(?:{_UNITS})\b", re.IGNORECASE)
_BETWEEN = re.compile(r"[\s_\-+/\\.,;:*&|=<>#^()\[\]{}'\"]+")


@cache
def vocabulary() -> frozenset[str]:
    """The words that are safe, in lower case."""
    text = Path(__file__).with_name("descriptor_words.txt").read_text(encoding="utf-8")
    return frozenset(word for line in text.splitlines() if not line.startswith("#") for word in line.split())


def is_safe(text: str) -> bool:
    """Whether every word of the text is known to be safe; punctuation between words is not looked at."""
    words = _BETWEEN.split(_WITH_UNIT.sub(" ", text.casefold()))
    return all(_is_word(word) for word in words if word)


def _is_word(word: str) -> bool:
    return (
        word in vocabulary() or (len(word) == 1 and word.isascii() and word.isdigit()) or bool(_MEASURE.fullmatch(word))
    )
