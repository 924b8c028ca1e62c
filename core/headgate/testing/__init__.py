"""For whoever tests against Headgate: values in a line, a world to decide in, and a suite of checks for each port.

No test framework is imported, and nothing here waits, writes or looks at a clock: an adapter and what it needs come
from the caller. How a suite is run is in `suite.py`.
"""

from headgate.testing.builders import BUILDER, BuilderCase
from headgate.testing.catalogues import CATALOGUE, CatalogueCase
from headgate.testing.engines import ENGINE, EngineCase
from headgate.testing.gates import GATE, GateCase
from headgate.testing.platforms import PLATFORM, PlatformCase
from headgate.testing.records import RECORD
from headgate.testing.resolvers import RESOLVER, ResolverCase
from headgate.testing.secrets import SECRETS
from headgate.testing.servers import SERVER, ServerCase
from headgate.testing.sources import SOURCE, SourceCase
from headgate.testing.suite import Check, Suite, Wait
from headgate.testing.values import FAST, counts, deployment, look, pair, target, verdict
from headgate.testing.world import World

__all__ = [
    "BUILDER",
    "CATALOGUE",
    "ENGINE",
    "FAST",
    "GATE",
    "PLATFORM",
    "RECORD",
    "RESOLVER",
    "SECRETS",
    "SERVER",
    "SOURCE",
    "BuilderCase",
    "CatalogueCase",
    "Check",
    "EngineCase",
    "GateCase",
    "PlatformCase",
    "ResolverCase",
    "ServerCase",
    "SourceCase",
    "Suite",
    "Wait",
    "World",
    "counts",
    "deployment",
    "look",
    "pair",
    "target",
    "verdict",
]
