"""The executables: a C launcher, its Python stand-in, and what writes them."""
