"""The host's side of tests in virtual machines: make the job, start the nodes, read the results (scripts/vm-test)."""
