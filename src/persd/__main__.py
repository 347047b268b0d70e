"""``python -m persd``: the command, as `accelerate launch -m persd train ...` wants it."""

from persd.cli import main

if __name__ == "__main__":
    main()
