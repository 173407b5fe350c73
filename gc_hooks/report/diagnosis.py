"""What is said of a bug, and how its parameters are listed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Diagnosis:
    """Which bug it is.

    Attributes
    ----------
    code : str
        One word for programs to act on.
    parameters : tuple of str
        Where it was seen.
    message : str
        What was seen, in one sentence.
    evidence : str
        The figures behind it.
    advice : str
        What it usually means and what to try.
    """

    code: str
    parameters: tuple[str, ...]
    message: str
    measurements: str = ""
    advice: str = ""

    def __str__(self) -> str:
        return " ".join(filter(None, (self.message, self.measurements, self.advice)))


def listed(names: Iterable[str], most: int = 6) -> str:
    """Names for a sentence.

    Examples
    --------
    >>> listed(["W1"]), listed(["W1", "b1", "W2"])
    ('W1', 'W1, b1 and W2')
    """
    names = list(names)
    if len(names) > most:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1] if names else "")))


def plural(count: int, word: str) -> str:
    """A number of things.

    Examples
    --------
    >>> plural(1, "check"), plural(2, "check")
    ('1 check', '2 checks')
    """
    return f"{count} {word}{'' if count == 1 else 's'}"


def of_gradients(names: Iterable[str]) -> str:
    """What the gradients of parameters are called.

    Examples
    --------
    >>> of_gradients(["W1", "b1"]), of_gradients(["dense1.W"]), of_gradients(["a.W", "a.b"])
    ('dW1 and db1', 'the gradient of dense1.W', 'the gradients of a.W and a.b')
    """
    names = list(names)
    if any("." in name for name in names):
        return f"the gradient{'' if len(names) == 1 else 's'} of {listed(names)}"
    return listed(f"d{name}" for name in names)


def sentence(text: str) -> str:
    """With a capital letter; symbols stay as they are.

    Examples
    --------
    >>> sentence("the gradient of dense1.W is zero."), sentence("dW1 is zero.")
    ('The gradient of dense1.W is zero.', 'dW1 is zero.')
    """
    return text[0].upper() + text[1:] if text.startswith("the ") else text
