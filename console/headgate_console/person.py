"""Who types: what the record says of an operator's action."""

from __future__ import annotations

import getpass
import os
import subprocess


def who() -> str:
    """The person, as git knows them; else the account's name."""
    try:
        asked = subprocess.run(["git", "config", "user.email"], capture_output=True, text=True, check=False)
        return asked.stdout.strip() or getpass.getuser()
    except (OSError, KeyError):  # no git, or an account without a name, as in some containers
        return f"user {os.getuid()}"
