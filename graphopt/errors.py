"""Every failure that graphopt expects, as one family of exceptions.

A message says what is wrong, where (file, node, pass, plugin), and what to do about it.
"""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST = 4000


class GraphoptError(Exception):
    """A failure that the user can act on: printed without a traceback, exit code 1."""

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        what, where, hint = (_short(text) for text in (what, where, hint))
        super().__init__(what, where, hint)
        self.what = what
        self.where = where
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.where}: {self.what}" if self.where else self.what
        return f"{text}\n  {self.hint}" if self.hint else text

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.what, self.where, self.hint)


def _short(text: str) -> str:
    """Names and shapes come from files, and may be megabytes long."""
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 200]} ... {text[-100:]}"


def _rebuild(cls: type[GraphoptError], what: str, where: str, hint: str) -> GraphoptError:
    return cls(what, where=where, hint=hint)


class UsageError(GraphoptError):
    """The words of the call are off: exit code 2."""

    exit_code = 2


class ModelError(GraphoptError):
    """The model cannot be read, or is not a valid ONNX model."""


class PluginError(GraphoptError):
    """A plugin cannot be used, clashes with another one, or broke its contract."""


class PassError(GraphoptError):
    """A pass raised, or lied about what it did; culprit is its name, '' where several are at odds."""

    culprit = ""


class VerificationError(GraphoptError):
    """The optimized model does not compute what its source computes."""


class ImporterError(GraphoptError):
    """A model of another framework cannot be taken in: the framework is missing, died, or took too long."""


class BackendError(GraphoptError):
    """A backend is missing, refused the model, failed to build it, or died."""


def nearest(name: str, names: Iterable[str], otherwise: str, cutoff: float = 0.5) -> str:
    """'did you mean a or b?' for a name that does not exist; `otherwise` where nothing is alike."""
    from difflib import get_close_matches

    close = get_close_matches(name, list(names), 3, cutoff)
    return f"did you mean {' or '.join(close)}?" if close else otherwise
