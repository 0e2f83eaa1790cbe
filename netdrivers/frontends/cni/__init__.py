"""The CNI front end: executables by the Container Network Interface spec, 0.1.0 to 1.1.0."""
