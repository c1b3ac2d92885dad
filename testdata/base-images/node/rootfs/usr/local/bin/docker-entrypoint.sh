#!/bin/sh
# `docker run node:18-alpine app.js` means `node app.js`: options, and words that are no command, go to node.
set -e
case "$1" in
-*) set -- node "$@" ;;
*) command -v "$1" >/dev/null || set -- node "$@" ;;
esac
exec "$@"
