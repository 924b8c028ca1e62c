"""Where the programs begin: before they can answer for themselves, Ctrl-C ends them without a traceback of imports."""

from __future__ import annotations

import signal


def headgate() -> None:
    _unheard()
    from headgate_console.main import main

    main()


def kubectl_headgate() -> None:
    _unheard()
    from headgate_console.plugin import main

    main()


def _unheard() -> None:
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else it is ignored: a job in the background
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def heard() -> None:
    """From here on Ctrl-C is a KeyboardInterrupt, which the caller turns into an exit code."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL:
        signal.signal(signal.SIGINT, signal.default_int_handler)
