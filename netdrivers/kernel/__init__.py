"""The kernel room: the only place that touches the kernel's network state."""
