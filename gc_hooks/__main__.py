"""``python -m gc_hooks`` is the ``gc-hooks`` command."""

from __future__ import annotations

import sys

from gc_hooks.cli import main

if __name__ == "__main__":  # and not where a tool imports every module
    sys.exit(main())
