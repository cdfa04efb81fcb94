"""`python -m memfast` is the command line."""

from memfast.cli import main

if __name__ == "__main__":
    main()
