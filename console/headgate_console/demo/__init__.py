"""`headgate demo`: the main job told as a story, on real models, and checked while it is told.

Nothing here is imported by the rest of Headgate, and nothing here reaches into it: the demo is a user. It runs
`headgate init` and `headgate up`, commits with git, reads the control API and sends requests to the router.
"""

from headgate_console.demo.command import demo

__all__ = ["demo"]
