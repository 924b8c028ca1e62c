"""References to pins: what `azureml:NAME@latest` means at one commit.

The catalogue is a folder of the endpoints repo, so a reference is resolved from the commit's own files: an earlier tree
resolves as it did, with nothing to remember. A catalogue outside the repo must keep its answers in the record, by tree.
"""

from __future__ import annotations

from collections.abc import Callable

from headgate.ports import Tree
from headgate.process import Settings
from headgate.target import ModelPin
from headgate_controllers.catalogues.folder import FolderCatalogue


def reader(tree: Tree, settings: Settings) -> Callable[[str], ModelPin]:
    """What resolves model references at this commit. It raises LookupError with words for the author."""
    if settings.catalogue:
        return FolderCatalogue(tree, settings.catalogue).pin

    def refuse(ref: str) -> ModelPin:
        raise LookupError(f"{ref} needs a catalogue, and headgate.yml names none (catalogue: FOLDER)")

    return refuse
