"""The names room: containers of a network find each other by name, through aardvark-dns."""
