#!/usr/bin/env -S uv run --script
# /// script
# dependencies = ["nox"]
# ///
"""Tasks in environments of their own, for those who prefer nox to make: `nox -s tests`."""

import nox

nox.needs_version = ">=2024.4.15"
nox.options.default_venv_backend = "uv|virtualenv"


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, format and types."""
    session.install("-c", "constraints.txt", "-e.[dev]")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("mypy")


@nox.session(python=["3.11", "3.12", "3.13"], default=False)
def tests(session: nox.Session) -> None:
    """Run the tests; arguments go to pytest."""
    session.install("-e.[dev]")
    session.run("pytest", "-n", "2", *session.posargs)


@nox.session(default=False)
def docs(session: nox.Session) -> None:
    """Build the site into build/docs."""
    session.install("-c", "constraints.txt", "-e.[dev,docs]")
    session.run("python", "-m", "sphinx", "-q", "-W", "--keep-going", "docs", "build/docs")


@nox.session(default=False)
def build(session: nox.Session) -> None:
    """Make the wheel and the source distribution, and check what package indexes will show."""
    session.install("build", "twine")
    session.run("python", "-m", "build")
    session.run("python", "-m", "twine", "check", "--strict", "dist/*")


if __name__ == "__main__":
    nox.main()
