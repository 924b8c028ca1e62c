"""The platform of one machine: replicas are processes under a shim, all state lies in folders.

`platform.py` is the port; `life.py` decides (pure), `keeper.py` acts for one replica, `ending.py` drains and removes.
No sandbox: memory is sampled, cores are a hint.
"""

from headgate_controllers.platforms.process.platform import ProcessPlatform

__all__ = ["ProcessPlatform"]
