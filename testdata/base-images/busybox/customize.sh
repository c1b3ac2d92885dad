#!/bin/sh
. "$(dirname "$0")/../common.sh"
accounts daemon 1 /usr/sbin
