"""`python -m headgate_router`."""

from headgate_router.main import main

if __name__ == "__main__":
    main()
