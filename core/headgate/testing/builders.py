"""What every builder promises: nothing is built twice, nothing half made counts. Subject: a `BuilderCase`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from headgate.findings import SpecError
from headgate.ports import Builder
from headgate.target import Source, SourcePath
from headgate.testing.suite import Suite, raises


@dataclass(frozen=True, slots=True)
class BuilderCase:
    builder: Builder  # that has built nothing yet
    source: Source  # one that can be built; it has code
    files: Path  # a folder with the source's files, paths as in the repo
    log: Path  # where the build may write what it says


BUILDER: Suite[BuilderCase] = Suite()


def _missing(case: BuilderCase) -> Source:
    return replace(case.source, code=SourcePath("endpoints/no/such", "0" * 40))


@BUILDER
def _what_was_never_built_is_not_found(case: BuilderCase) -> None:
    assert case.builder.find(case.source) is None


@BUILDER
def _what_was_built_is_found(case: BuilderCase) -> None:
    made = case.builder.build(case.source, case.files, case.log)
    assert made.digest
    assert made.location
    assert case.builder.find(case.source) == made


@BUILDER
def _building_again_gives_the_same_artifact(case: BuilderCase) -> None:
    made = case.builder.build(case.source, case.files, case.log)
    assert case.builder.build(case.source, case.files, case.log) == made


@BUILDER
def _another_source_is_another_artifact(case: BuilderCase) -> None:
    made = case.builder.build(case.source, case.files, case.log)
    other = replace(case.source, scoring_path="/other")
    assert case.builder.find(other) is None
    assert case.builder.build(other, case.files, case.log).digest != made.digest


@BUILDER
def _a_source_whose_files_are_missing_is_the_authors_to_mend(case: BuilderCase) -> None:
    error = raises(
        SpecError, lambda: case.builder.build(_missing(case), case.files, case.log), "its files are not there"
    )
    assert isinstance(error, SpecError)
    assert all(finding.message and finding.fix for finding in error.findings)


@BUILDER
def _a_build_that_failed_leaves_nothing_to_be_found(case: BuilderCase) -> None:
    raises(SpecError, lambda: case.builder.build(_missing(case), case.files, case.log), "its files are not there")
    assert case.builder.find(_missing(case)) is None


@BUILDER
def _no_path_leads_out_of_the_files(case: BuilderCase) -> None:
    for path in ("../outside", "endpoints/../../outside", "/etc"):
        source = replace(case.source, code=SourcePath(path, "0" * 40))
        raises(SpecError, lambda s=source: case.builder.build(s, case.files, case.log), path)  # type: ignore[misc]
