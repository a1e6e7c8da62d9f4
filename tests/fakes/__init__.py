"""Small stand-ins for the world outside: none of them replaces code of ours."""
