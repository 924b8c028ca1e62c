"""What can answer inside a replica: one file per kind of server."""
