"""`python -m headgate_console`: the command line where no script is on the path."""

from headgate_console.start import headgate

headgate()
