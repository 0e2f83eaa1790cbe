"""Docker's remote drivers: its network and IPAM plugin protocols (moby, libnetwork/docs/remote.md and ipam.md)."""
