"""Tests that run real container engines on netdrivers' executables."""
