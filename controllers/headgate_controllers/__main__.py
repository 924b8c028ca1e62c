"""`python -m headgate_controllers`."""

import sys

from headgate_controllers.main import main

sys.exit(main())
