"""What every secret store promises. Subject: an empty `Secrets`."""

from __future__ import annotations

from headgate.ports import Secrets
from headgate.testing.suite import Suite, raises

SECRETS: Suite[Secrets] = Suite()
VALUE = "hunter2-\u00e9\n"


@SECRETS
def _what_was_put_comes_back(secrets: Secrets) -> None:
    secrets.put("registry/password", VALUE)
    secrets.put("registry/user", "ada")
    assert secrets.get("registry/password") == VALUE
    assert secrets.get("registry/user") == "ada"


@SECRETS
def _the_last_value_put_counts(secrets: Secrets) -> None:
    secrets.put("a", "old")
    secrets.put("a", VALUE)
    assert secrets.get("a") == VALUE


@SECRETS
def _a_secret_nobody_put_is_a_lookup_error_that_names_it(secrets: Secrets) -> None:
    error = raises(LookupError, lambda: secrets.get("registry/password"), "there is none of that name")
    assert "registry/password" in str(error)


@SECRETS
def _no_error_and_no_repr_shows_a_value(secrets: Secrets) -> None:
    secrets.put("a", VALUE)
    error = raises(LookupError, lambda: secrets.get("b"), "there is none of that name")
    assert "hunter2" not in f"{secrets!r} {secrets} {error!r}"
