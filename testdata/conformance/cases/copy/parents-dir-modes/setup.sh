chmod 700 m; chmod 750 m/n
