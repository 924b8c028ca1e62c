"""What a caller of an endpoint needs: its keys, an answer, the logs of the model that gave it."""

from __future__ import annotations

import http.client
import os
import sys
from typing import BinaryIO
from urllib.parse import urlsplit

import click

from headgate.findings import Finding, FindingsError, Place
from headgate_console import options
from headgate_console.connect import Control, open_control
from headgate_console.durations import Duration
from headgate_console.exits import Exit
from headgate_console.options import note
from headgate_console.person import who
from headgate_console.print import API_VERSION, labelled

DEPLOYMENT_HEADER = "azureml-model-deployment"
INVOKE_TOKEN_S = 60  # as short as a token may live: it is used at once
CALL_TIMEOUT_S = 300.0  # above any request_timeout_ms: the router ends a slow request, not we
TOLD = ("headgate-revision", "azureml-model-deployment", "x-ms-request-id", "ms-azureml-model-error-statuscode")


@options.verb()
@options.endpoint()
@click.option("-f", "--request-file", "body", type=click.File("rb"), required=True, help="The request; - reads stdin.")
@click.option("-d", "--deployment", default="", metavar="NAME", help="Past the split: NAME or NAME@REVISION.")
@click.option("-H", "--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="Sent along; may repeat.")
@options.data()
def invoke(endpoint: str, body: BinaryIO, deployment: str, headers: tuple[str, ...], data: str | None) -> Exit:
    """Send one request as a caller would; the answer goes to stdout, its status and revision with -v to stderr."""
    control = open_control(data)
    url = reachable(control.endpoint(endpoint).url)
    sent = {"content-type": "application/json"} | parsed(headers)
    if "authorization" not in sent:
        sent["authorization"] = f"Bearer {credential(control, endpoint)}"
    if deployment:
        sent[DEPLOYMENT_HEADER] = deployment
    status, told, answer = post(url, body.read(), sent)
    if options.verbose() or status >= 300:
        click.echo(f"HTTP {status}", err=True)
        for name in TOLD:
            if name in told:
                click.echo(f"{name}: {told[name]}", err=True)
    sys.stdout.buffer.write(answer + (b"" if answer.endswith(b"\n") else b"\n"))
    return Exit.OK if status < 300 else Exit.NOT_FOUND if status == 404 else Exit.REFUSED


def reachable(url: str) -> str:
    """Where this machine reaches the router: $HEADGATE_ROUTER stands for it, e.g. through a port-forward."""
    router = os.environ.get("HEADGATE_ROUTER", "")
    return router.rstrip("/") + urlsplit(url).path if router else url


def credential(control: Control, endpoint: str) -> str:
    """The primary key, or a token that lives just long enough. Raises FindingsError: only another issuer has one."""
    try:
        return control.keys(endpoint)["primary"]
    except FindingsError as error:
        if error.findings[0].code != "auth-mode":
            raise
    return str(control.token(endpoint, INVOKE_TOKEN_S, who())["token"])


def parsed(headers: tuple[str, ...]) -> dict[str, str]:
    pairs = [line.partition(":") for line in headers]
    if any(not colon for _, colon, _ in pairs):
        raise click.BadParameter("write a header as 'NAME: VALUE'", param_hint="--header")
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, body. Raises: FindingsError `router-silent`."""
    place = urlsplit(url)
    kind = http.client.HTTPSConnection if place.scheme == "https" else http.client.HTTPConnection
    connection = kind(place.hostname or "", place.port, timeout=CALL_TIMEOUT_S)
    try:
        connection.request("POST", place.path or "/", body, headers)
        response = connection.getresponse()
        return response.status, {k.lower(): v for k, v in response.getheaders()}, response.read()
    except (OSError, http.client.HTTPException) as error:
        raise FindingsError(
            Finding(
                code="router-silent",
                message=f"{url} does not answer",
                why=f"{type(error).__name__}: {error}",
                fix="`headgate status` shows the router's workers; `headgate up` restarts them",
                place=Place(url),
            )
        ) from error
    finally:
        connection.close()


@click.group(cls=options.Noun)
def keys() -> None:
    """Show and change the credentials of an endpoint."""


@keys.command()
@options.endpoint()
@options.output("table", "json", "yaml")
@options.data()
def show(endpoint: str, output: str, data: str | None) -> Exit:
    """Print the primary and the secondary key."""
    found = open_control(data).keys(endpoint)
    document = {"apiVersion": API_VERSION, "kind": "EndpointKeys", **found}
    options.emit(document, output, lambda: [labelled(name, key) for name, key in found.items()])
    return Exit.OK


@keys.command()
@options.endpoint()
@click.option("--ttl", type=Duration(), default="1h", show_default=True, help="How long it is good for; at most 24h.")
@options.output("table", "json", "yaml")
@options.data()
def token(endpoint: str, ttl: float, output: str, data: str | None) -> Exit:
    """Issue a token for callers of an endpoint that takes tokens. The table form prints the token alone."""
    issued = open_control(data).token(endpoint, int(ttl), who())
    document = {"apiVersion": API_VERSION, "kind": "EndpointToken", "endpoint": endpoint, **issued}
    options.emit(document, output, lambda: [str(issued["token"])])
    return Exit.OK


@keys.command()
@options.endpoint()
@click.option(
    "--key-type",
    type=click.Choice(["primary", "secondary", "signing"]),
    default="primary",
    show_default=True,
    help="Which one; signing: what tokens are signed with.",
)
@options.data()
def rotate(endpoint: str, key_type: str, data: str | None) -> Exit:
    """Replace one key; the other goes on working, so callers change without an outage.

    A new signing key takes back every token issued before.
    """
    open_control(data).rotate(endpoint, key_type)
    if key_type == "signing":
        note(f"{endpoint}: tokens issued before are refused from now on; `headgate keys token {endpoint}` issues one")
        return Exit.OK
    other = "secondary" if key_type == "primary" else "primary"
    note(f"{endpoint}: new {key_type} key, the {other} one is unchanged; `headgate keys show {endpoint}` prints both")
    return Exit.OK


@options.verb()
@options.endpoint(metavar="ENDPOINT[/DEPLOYMENT]")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines come.")
@click.option(
    "--container",
    "kind",
    type=click.Choice(["inference-server", "storage-initializer"]),
    default="inference-server",
    show_default=True,
    help="Which of Azure's two logs.",
)
@options.data()
def logs(endpoint: str, follow: bool, kind: str, data: str | None) -> Exit:
    """Print the log of the model servers of an endpoint."""
    name, _, deployment = endpoint.partition("/")
    query = {"deployment": deployment, "kind": kind, "follow": str(follow).lower()}
    for chunk in open_control(data).logs(name, query):
        sys.stdout.buffer.write(chunk)
        sys.stdout.buffer.flush()
    return Exit.OK
