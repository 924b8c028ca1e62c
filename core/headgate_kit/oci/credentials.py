"""Who we are to a registry: a docker config.json, as a Kubernetes pull secret holds it.

Refuses credential helpers: they are programs, and none is in the build's image. Nothing here is ever printed.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from headgate.findings import TerminalError

ENV_FOLDER = "DOCKER_CONFIG"  # the folder that holds config.json, as for docker
HUB = "docker.io"
HUB_KEY = "https://index.docker.io/v1/"  # under which Docker itself keeps its hub's credentials


@dataclass(frozen=True, slots=True)
class Login:
    user: str = ""
    password: str = field(default="", repr=False)
    refresh: str = field(default="", repr=False)  # an identity token; empty: user and password

    @property
    def basic(self) -> str:
        """The value of an Authorization header; empty: there is nothing to say."""
        if not self.user:
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry answers 401 with."""

    scheme: str  # lower case: bearer | basic
    parameters: Mapping[str, str]


def read(environ: Mapping[str, str]) -> Mapping[str, Login]:
    """Host -> login. No file: nothing. Raises TerminalError: a file that cannot be read."""
    folder = environ.get(ENV_FOLDER, "")
    path = Path(folder or os.path.expanduser("~/.docker")) / "config.json"
    try:
        known = json.loads(path.read_bytes())["auths"]
        return {_host(key): _login(value) for key, value in known.items()}
    except FileNotFoundError:
        if folder:
            raise TerminalError(f"there is no config.json in {folder}, where {ENV_FOLDER} points") from None
        return {}
    except KeyError:
        return {}
    except (OSError, ValueError, AttributeError, TypeError, binascii.Error) as error:
        # Not the error's own words: they may quote the file.
        raise TerminalError(f"{path} is not a docker config.json: {type(error).__name__}") from None


def challenge(header: str) -> Challenge:
    """Reads a WWW-Authenticate header."""
    scheme, _, rest = header.partition(" ")
    return Challenge(scheme.lower(), {k.lower(): v for k, v in re.findall(r'(\w+)="([^"]*)"', rest)})


def _host(key: str) -> str:
    if key == HUB_KEY:
        return HUB
    return key.removeprefix("https://").removeprefix("http://").partition("/")[0]


def _login(value: Mapping[str, Any]) -> Login:
    user, password = str(value.get("username", "")), str(value.get("password", ""))
    if not user and value.get("auth"):
        user, _, password = base64.b64decode(value["auth"]).decode().partition(":")
    return Login(user, password, str(value.get("identitytoken", "")))
