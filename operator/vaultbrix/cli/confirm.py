"""Have a person at a terminal name what they decide on, by how its sha256 begins."""

import sys

import typer

from vaultbrix.runtime.usage import Misused, Refused


def ask_for_hash(verb: str, sha256: str, length: int) -> str:
    """What the person typed. Raises Misused without a terminal, Refused when they break off.

    ``verb`` is what they are about to do, ``length`` how many characters they are asked for.
    """
    if not sys.stdin.isatty():
        raise Misused(f"--sha256: there is no terminal to ask on; give --sha256 {sha256[:length]}, or --yes")
    try:
        return input(f"To {verb} it, type the first {length} characters of its sha256: ")
    except (EOFError, KeyboardInterrupt):
        typer.echo(err=True)
        raise Refused("nothing was decided") from None
