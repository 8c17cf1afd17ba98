"""`python -m nacre`: the command `nacre`, for launchers that start modules."""

from .cli.main import main

if __name__ == "__main__":
    main()
