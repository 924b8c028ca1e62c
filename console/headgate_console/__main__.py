"""`python -m headgate_console`: the command line where no script is on the path."""

from headgate_console.main import main

main()
