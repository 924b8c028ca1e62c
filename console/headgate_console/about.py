"""`headgate version` and `headgate completion`: what is installed, and the shell's help with typing it."""

from __future__ import annotations

import platform

import click
from click.shell_completion import get_completion_class

from headgate.version import __version__
from headgate_console import options
from headgate_console.print import API_VERSION
from headgate_router.datapath import data_path


@options.verb()
@options.output("table", "json", "yaml")
def version(output: str) -> None:
    """Say which version this is, and whether its router's data path is Python or compiled."""
    document = {
        "apiVersion": API_VERSION,
        "kind": "Version",
        "version": __version__,
        "python": platform.python_version(),
        "dataPath": data_path(),
    }
    line = f"headgate {__version__} (Python {platform.python_version()}, data path: {data_path()})"
    options.emit(document, output, lambda: [line])


@options.verb()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell.

    \b
    bash:  headgate completion bash > ~/.local/share/bash-completion/completions/headgate
    zsh:   headgate completion zsh > "${fpath[1]}/_headgate"
    fish:  headgate completion fish > ~/.config/fish/completions/headgate.fish
    """
    from headgate_console.main import cli

    found = get_completion_class(shell)
    assert found is not None, "click knows the shells that the argument allows"
    click.echo(found(cli, {}, "headgate", "_HEADGATE_COMPLETE").source())
