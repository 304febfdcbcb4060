"""How work is spread over processes and threads."""
