"""`headgate routes`: the table that routers serve by, shares as asked beside shares as counted."""

from __future__ import annotations

from headgate.control import TableStatus
from headgate_console import options
from headgate_console.connect import open_control
from headgate_console.exits import Exit
from headgate_console.print import dim, document, percent, short, table


@options.verb()
@options.endpoint(required=False)
@options.output()
@options.data()
def routes(endpoint: str | None, output: str, data: str | None) -> Exit:
    """Show the live route table: shares asked, shares counted in the last minute, copies, replicas."""
    found = open_control(data).table(endpoint or "")
    names = [f"revision/{row.revision}" for row in found.routes]
    options.emit(document("RouteTable", found), output, lambda: lines(found, wide=output == "wide"), names)
    return Exit.OK


def lines(found: TableStatus, *, wide: bool = False) -> list[str]:
    """COUNTED is of the endpoint's requests in the last minute; callers who choose by header move it off ASKED."""
    headers = ["ENDPOINT", "DEPLOYMENT", "REVISION", "ASKED", "COUNTED", "REQUESTS", "MIRROR", "REPLICAS", "GENERATION"]
    rows = [
        [
            row.endpoint,
            row.deployment,
            row.revision if wide else row.revision[:8],
            percent(row.per_mille),
            "-" if row.observed is None else f"{row.observed * 100:.1f} %",
            str(row.requests),
            row.mirror or "-",
            row.replicas,
            str(row.generation),
            *([row.auth_mode, row.sticky] if wide else []),
        ]
        for row in found.routes
    ]
    shown = table([*headers, *(["AUTH", "STICKY"] if wide else [])], rows) if rows else ["no endpoint is routed yet"]
    leased = [worker for worker in found.workers if not worker.lost]
    behind = [worker.worker for worker in leased if worker.acked != found.generation]
    say = f"table {found.generation} of commit {short(found.commit) or 'none'}, hash {found.hash[:12]}"
    say += f"; served by {len(leased) - len(behind)} of {len(leased)} workers"
    return [*shown, dim(f"{say}, not yet by {', '.join(behind)}" if behind else say)]
