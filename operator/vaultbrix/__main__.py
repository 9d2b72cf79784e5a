"""``python -m vaultbrix``."""

from vaultbrix.cli.main import app

if __name__ == "__main__":
    app()
