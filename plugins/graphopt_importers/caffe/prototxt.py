"""Reads protobuf's text format without a schema, for every fork of Caffe has fields of its own.

https://protobuf.dev/reference/protobuf/textformat-spec
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from graphopt.errors import ModelError

_TOKEN = re.compile(
    r"""(?P<space>\s+|\#[^\n]*)
      | (?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      | (?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?|inf(?:inity)?\b|nan\b)(?![\w.]))
      | (?P<word>-?[A-Za-z_][\w.]*)
      | (?P<mark>[{}<>\[\]:,;])""",
    re.VERBOSE,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v"}
_DEEPEST = 50
_MISSING: Any = object()


class Word(str):
    """An unquoted word: an enum's value, true, false."""

    __slots__ = ()


@dataclass
class Message:
    """field -> its values in order. What was never asked for is in `unread()`: nothing is ignored by accident."""

    where: str
    values: dict[str, list[Any]] = field(default_factory=dict)
    read: set[str] = field(default_factory=set)

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def unread(self) -> list[str]:
        return [name for name in self.values if name not in self.read]

    def ignore(self, *names: str) -> None:
        """These fields have no part in what the network computes."""
        self.read.update(names)

    def all(self, name: str) -> list[Any]:
        """Every value of a repeated field."""
        self.read.add(name)
        return self.values.get(name, [])

    def messages(self, name: str) -> list[Message]:
        return [self._typed(name, value, Message) for value in self.all(name)]

    def message(self, name: str) -> Message:
        """The parts of a message may be apart: they are merged, as protobuf merges them. Empty where there is none."""
        merged = Message(self.where)
        for one in self.messages(name):
            merged.where = one.where
            for key, values in one.values.items():
                merged.values.setdefault(key, []).extend(values)
        return merged

    def ints(self, name: str) -> list[int]:
        return [self._int(name, value) for value in self.all(name)]

    def floats(self, name: str) -> list[float]:
        return [self._float(name, value) for value in self.all(name)]

    def words(self, name: str) -> list[str]:
        return [str(self._typed(name, value, str)) for value in self.all(name)]

    def integer(self, name: str, default: int = _MISSING) -> int:
        return self._int(name, self._last(name, default))

    def number(self, name: str, default: float = _MISSING) -> float:
        return self._float(name, self._last(name, default))

    def text(self, name: str, default: str = _MISSING) -> str:
        return str(self._typed(name, self._last(name, default), str))

    def flag(self, name: str, default: bool) -> bool:
        value = self._last(name, default)
        known = {
            "true": True,
            "True": True,
            "t": True,
            "1": True,
            "false": False,
            "False": False,
            "f": False,
            "0": False,
        }
        if isinstance(value, str | int) and str(value) in known:
            return known[str(value)]
        raise self._off(name, value, "true or false")

    def choice(self, name: str, default: str, choices: dict[int, str]) -> str:
        """An enum by name or number; choices: number -> name."""
        value = self._last(name, default)
        known = choices.get(value) if isinstance(value, int) else value
        if known in choices.values():
            return str(known)
        raise self._off(name, value, " or ".join(choices.values()))

    def _last(self, name: str, default: Any) -> Any:
        values = self.all(name)
        if values:
            return values[-1]
        if default is _MISSING:
            raise ModelError(f"{name} is missing", where=self.where)
        return default

    def _int(self, name: str, value: Any) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and -(2**63) <= value < 2**63:
            return value
        raise self._off(name, value, "a whole number")

    def _float(self, name: str, value: Any) -> float:
        return float(self._typed(name, value, (int, float)))

    def _typed(self, name: str, value: Any, kind: Any) -> Any:
        if isinstance(value, kind):
            return value
        names = {str: "a string", Message: "a message in { }"}
        raise self._off(name, value, names.get(kind, "a number"))

    def _off(self, name: str, value: Any, wanted: str) -> ModelError:
        shown = "{ ... }" if isinstance(value, Message) else repr(value)
        return ModelError(f"{name} is {shown}, not {wanted}", where=self.where)


def parse(text: str, name: str) -> Message:
    """The message that `text` spells.

    Raises:
        ModelError: it is not in text format; says where.
    """
    return _Parser(text, name).message("", 0)


class _Parser:
    def __init__(self, text: str, name: str) -> None:
        self.text, self.name = text, name
        self.line, self._counted = 1, 0
        self.tokens = self._tokens()
        self.kind, self.token = next(self.tokens)

    def _tokens(self) -> Iterator[tuple[str, str]]:
        place = 0
        while place < len(self.text):
            found = _TOKEN.match(self.text, place)
            self._count(place)
            if found is None:
                raise self.off(f"cannot read {self.text[place : place + 20].splitlines()[0]!r}")
            place = found.end()
            if found.lastgroup != "space":
                yield str(found.lastgroup), found[0]
        while True:
            yield "end", "the end of the file"

    def _count(self, place: int) -> None:
        self.line += self.text.count("\n", self._counted, place)
        self._counted = place

    def off(self, what: str) -> ModelError:
        return ModelError(
            what,
            where=f"{self.name}:{self.line}",
            hint="a .prototxt is in protobuf's text format: name: value, name { ... }",
        )

    def take(self) -> str:
        token = self.token
        self.kind, self.token = next(self.tokens)
        return token

    def took(self, *marks: str) -> bool:
        if self.kind == "mark" and self.token in marks:
            self.take()
            return True
        return False

    def message(self, end: str, depth: int) -> Message:
        if depth > _DEEPEST:
            raise self.off(f"more than {_DEEPEST} messages inside each other")
        found = Message(f"{self.name}:{self.line}")
        while not (self.took(end) if end else self.kind == "end"):
            if self.kind != "word":
                raise self.off(f"a field's name was expected, not {self.token}")
            values = found.values.setdefault(self.take(), [])
            colon = self.took(":")
            if self.took("["):
                while not self.took("]"):
                    values.append(self.value(depth))
                    if not self.took(",") and self.token != "]":
                        raise self.off(f"a comma or ] was expected, not {self.token}")
            elif colon or self.token in "{<":
                values.append(self.value(depth))
            else:
                raise self.off(f"a colon or {{ was expected, not {self.token}")
            self.took(",", ";")
        return found

    def value(self, depth: int) -> Any:
        if self.took("{"):
            return self.message("}", depth + 1)
        if self.took("<"):
            return self.message(">", depth + 1)
        if self.kind == "string":
            parts = []
            while self.kind == "string":
                parts.append(_unescaped(self.take()[1:-1]))
            return "".join(parts)
        if self.kind == "number":
            return _number(self.take())
        if self.kind == "word":
            return Word(self.take())
        raise self.off(f"a value was expected, not {self.token}")


def _number(token: str) -> int | float:
    digits = token.lstrip("+-")
    if digits[:2] in ("0x", "0X"):
        return int(token, 16)
    if len(digits) > 4000:
        return float(token.rstrip("fF") or "nan")
    if digits.isdigit():
        return int(token, 8) if digits != "0" and digits[0] == "0" and set(digits) <= set("01234567") else int(token)
    return float(token if "inf" in token or token.endswith("nan") else token.rstrip("fF"))


def _unescaped(text: str) -> str:
    def one(found: re.Match[str]) -> str:
        code = found[1]
        if code[0] in "01234567":
            return chr(int(code, 8))
        if code[0] in "xX" and len(code) > 1:
            return chr(int(code[1:], 16))
        return _ESCAPES.get(code, code)

    return re.sub(r"\\([0-7]{1,3}|[xX][0-9a-fA-F]{1,2}|.)", one, text)
