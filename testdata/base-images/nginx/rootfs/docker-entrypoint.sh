#!/bin/sh
# The real image runs what lies in /docker-entrypoint.d before the server starts; so does this one.
set -e
for script in /docker-entrypoint.d/*.sh; do
    [ -x "$script" ] && "$script"
done
exec "$@"
