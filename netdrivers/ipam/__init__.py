"""The IPAM room: ranges (pure arithmetic), the allocator on the store, delegation to foreign executables."""
