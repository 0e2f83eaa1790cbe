"""The netavark front end: the plugin API of Podman 5."""
