"""Ctrl-C at any line of some code."""

from __future__ import annotations

import sys


class _Interrupting:
    """Raises KeyboardInterrupt at the n-th line that runs of the code that is wanted."""

    def __init__(self, count, is_wanted):
        self.left, self.is_wanted = count, is_wanted

    def __call__(self, frame, event, argument):
        if not self.is_wanted(frame.f_code):
            return None
        if event == "line":
            self.left -= 1
            if self.left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self


def interrupted_at(check, count, is_wanted):
    """Whether a Ctrl-C at that line came through."""
    previous = sys.gettrace()
    sys.settrace(_Interrupting(count, is_wanted))
    try:
        check()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(previous)
    return False
