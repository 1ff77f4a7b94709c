"""``python -m asyncload`` is the ``asyncload`` command."""

from asyncload.cli import main

if __name__ == "__main__":
    main()
