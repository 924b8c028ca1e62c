"""`headgate demo`: its options. The story and what it needs are imported when it is told."""

from __future__ import annotations

from pathlib import Path

import click

from headgate.findings import Finding, FindingsError, Place
from headgate_console import options


@options.verb()
@click.option("--rate", type=click.FloatRange(1, 5_000), default=300.0, show_default=True, help="Requests per second.")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Put repo, data and logs here, keep them.")
@click.option("--json", "json_to", type=click.Path(path_type=Path), metavar="FILE", help="Also write it all as data.")
def demo(rate: float, keep: Path | None, json_to: Path | None) -> int:
    """Tell the main job as a story, on real models, and check it: two minutes, nothing is left behind."""
    needs_sklearn()
    from headgate_console.demo import story

    return story.main(story.Options(rate=rate, keep=keep, quiet=options.quiet(), json=json_to))


def needs_sklearn() -> None:
    """Raises: FindingsError `demo-extra`."""
    try:
        import sklearn  # noqa: F401
    except ModuleNotFoundError as error:
        raise FindingsError(
            Finding(
                code="demo-extra",
                message="the demo trains its models with scikit-learn, which is not installed",
                why="serving needs no model library of ours, so a plain install has none",
                fix="pip install 'headgate[demo]'",
                place=Place("headgate demo"),
            )
        ) from error
