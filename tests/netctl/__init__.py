"""Tests of netctl, each command as a process on a test host."""
