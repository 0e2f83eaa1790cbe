"""netdrivers: container network drivers behind one add / del / check interface."""

__version__ = "0.1.0"
