chmod 000 d/f; chmod 0 d
