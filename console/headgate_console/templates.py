"""`headgate templates`: what a team's own Argo pipeline refers to. Asks nobody."""

from __future__ import annotations

import os

import click

from headgate_console import options
from headgate_console.exits import Exit

CONTROL = "http://headgate-controller:7070"  # the chart's Service, seen from its namespace


@options.verb()
@click.option("--namespace", default="", help="Put into both documents. Default: none, `kubectl -n` decides.")
@click.option("-o", "--output", type=click.Choice(["yaml", "json"]), default="yaml", help="How it is printed.")
def templates(namespace: str, output: str) -> Exit:
    """Print Headgate's ops as Argo WorkflowTemplates, and the whole rollout, for a team's own pipelines.

    Image, accounts and build settings come from the environment, as the controller's do: print them in its pod.
    """
    from headgate_console.print import machine
    from headgate_pipelines.engines.settings import from_environment
    from headgate_pipelines.templates import documents

    found = documents(from_environment(os.environ), given(), namespace=namespace)
    if output == "json":
        click.echo(machine({"apiVersion": "v1", "kind": "List", "items": found}, "json"))
    else:
        click.echo("---\n".join(machine(document, "yaml").rstrip("\n") + "\n" for document in found), nl=False)
    return Exit.OK


def given() -> dict[str, str]:
    """Variables of every op, as the controller gives them. Raises FindingsError: one of them holds a password."""
    from headgate_controllers.options import build_variables

    return {"HEADGATE_CONTROL": os.environ.get("HEADGATE_CONTROL") or CONTROL, **build_variables()}
