"""`python -m nacre` is the command `nacre`."""

from .cli.main import main

if __name__ == "__main__":
    main()
