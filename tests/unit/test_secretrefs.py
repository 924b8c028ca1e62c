"""References to Secrets of a cluster: which are followed, and where nobody could."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from headgate import secretrefs
from headgate.testing import deployment, target
from headgate.workload import SecretKey
from headgate_kit.worktree import WorkTree


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("${{secretref:db/url}}", SecretKey("db", "url"), id="with a key"),
        pytest.param("${{ secretref:team.db }}", SecretKey("team.db", "DB_URL"), id="the variable is the key"),
        pytest.param("${{secretref:Db/url}}", None, id="no name of a Secret"),
        pytest.param("${{secretref:headgate-control/token}}", None, id="Headgate's own"),
        pytest.param("${{secretref:headgate-keys-fraud/primary}}", None, id="an endpoint's keys"),
        pytest.param("a ${{secretref:db/url}}", None, id="inside a text"),
        pytest.param("${{azureml://secret}}", None, id="of Azure"),
        pytest.param("plain", None, id="plain"),
    ],
)
def test_which_texts_are_references(text: str, expected: SecretKey | None) -> None:
    assert secretrefs.parse_reference("DB_URL", text) == expected


@pytest.mark.parametrize("variable", ["HEADGATE_ADDRESS", "a-b", "", "a b"])
def test_a_variable_that_a_replica_is_told_otherwise_is_not_taken(variable: str) -> None:
    assert secretrefs.parse_reference(variable, "${{secretref:db/url}}") is None


def test_values_and_references_are_told_apart() -> None:
    plain, found = secretrefs.split({"A": "1", "B": "${{secretref:db}}"})
    assert (plain, found) == ({"A": "1"}, {"B": SecretKey("db", "B")})


def test_a_platform_without_secrets_has_a_finding_at_the_line(tmp_path: Path) -> None:
    path = tmp_path / "endpoints/fraud/deployments/b.yml"
    path.parent.mkdir(parents=True)
    path.write_text("name: blue\nenvironment_variables:\n  DB: ${{secretref:db/url}}\n")
    blue = deployment("blue")
    blue = replace(blue, source=replace(blue.source, variables={"DB": "${{secretref:db/url}}", "A": "1"}))
    asked = target("a1", [blue], {"blue": 100})
    (found,) = secretrefs.unsupported(asked, WorkTree(tmp_path))
    assert (found.code, str(found.place)) == ("secret-reference", "endpoints/fraud/deployments/b.yml:3:7")
    assert secretrefs.unsupported(target("a1", [deployment("blue")], {"blue": 100}), WorkTree(tmp_path)) == ()
    assert secretrefs.unsupported(None, WorkTree(tmp_path)) == ()
