"""`python -m ebbtide` is `ebbtide`."""

from ebbtide.cli.main import main

if __name__ == "__main__":
    main()
