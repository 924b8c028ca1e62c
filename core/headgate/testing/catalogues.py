"""What every catalogue promises. Subject: a `CatalogueCase`: a catalogue with at least one model in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from headgate.ports import Catalogue
from headgate.testing.suite import Suite, raises


@dataclass(frozen=True, slots=True)
class CatalogueCase:
    catalogue: Catalogue
    name: str  # of a model it has
    version: str  # ... in this version
    into: Path  # an empty folder


CATALOGUE: Suite[CatalogueCase] = Suite()


@CATALOGUE
def _a_version_is_pinned_to_itself(case: CatalogueCase) -> None:
    pin = case.catalogue.pin(f"azureml:{case.name}:{case.version}")
    assert (pin.name, pin.version) == (case.name, case.version)
    assert pin.source is not None or pin.catalogue, "a pin says where the model is"


@CATALOGUE
def _the_same_reference_gives_the_same_pin(case: CatalogueCase) -> None:
    ref = f"azureml:{case.name}:{case.version}"
    assert case.catalogue.pin(ref) == case.catalogue.pin(ref)


@CATALOGUE
def _a_label_is_pinned_to_a_version_never_to_itself(case: CatalogueCase) -> None:
    pin = case.catalogue.pin(f"azureml:{case.name}@latest")
    assert pin.version != "latest"
    assert case.catalogue.pin(f"azureml:{case.name}:{pin.version}") == pin


@CATALOGUE
def _what_is_not_there_is_a_lookup_error_that_says_what_is(case: CatalogueCase) -> None:
    error = raises(LookupError, lambda: case.catalogue.pin(f"azureml:{case.name}:no-such"), "no such version")
    assert case.version in str(error), "the text says which versions there are"
    error = raises(LookupError, lambda: case.catalogue.pin("azureml:no-such-model:1"), "no such model")
    assert case.name in str(error), "the text says which models there are"


@CATALOGUE
def _no_reference_leads_out_of_the_catalogue(case: CatalogueCase) -> None:
    for ref in ("azureml:../secrets:1", f"azureml:{case.name}:../..", f"azureml:{case.name}:..", "/etc/passwd", ""):
        raises(LookupError, lambda r=ref: case.catalogue.pin(r), ref)  # type: ignore[misc]


@CATALOGUE
def _a_pin_is_fetched_into_the_folder_that_is_given(case: CatalogueCase) -> None:
    case.catalogue.fetch(case.catalogue.pin(f"azureml:{case.name}:{case.version}"), case.into)
    assert any(path.is_file() for path in case.into.rglob("*")), "a model has files"


@CATALOGUE
def _a_pin_of_another_catalogue_is_refused(case: CatalogueCase) -> None:
    pin = case.catalogue.pin(f"azureml:{case.name}:{case.version}")
    foreign = replace(pin, name="no-such-model", source=None, catalogue="elsewhere")
    raises(LookupError, lambda: case.catalogue.fetch(foreign, case.into), "this pin is not from here")
    assert not list(case.into.iterdir()), "nothing was written"
