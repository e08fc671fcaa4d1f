"""`python -m dispatcher` is the command `dispatcher`."""

from dispatcher.cli import main

if __name__ == "__main__":
    main()
