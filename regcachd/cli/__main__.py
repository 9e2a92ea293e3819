"""`python -m regcachd.cli` is regcachctl."""

from .main import main

main()
