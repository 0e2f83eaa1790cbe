"""python -m netdrivers.netctl."""

from netdrivers.netctl.main import main

main()
