"""Everything the controller knows of git: look, read, commit, push. The rest of it imports from here.

`endpoints.py` is the repo as the controller uses it; `gitdir.py` the only importer of GitPython; `committree.py` one
commit's files; `origin.py` where it lives; `watch.py` when to look; `archive.py` a source's files for a build.
"""

from headgate_controllers.repo.endpoints import Commit, EndpointsRepo, PushRefused, trailers
from headgate_controllers.repo.gitdir import RepoError

__all__ = ["Commit", "EndpointsRepo", "PushRefused", "RepoError", "trailers"]
