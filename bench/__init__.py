"""The benchmark: netdrivers beside its peers and a floor, in one run. Start it with scripts/bench."""
