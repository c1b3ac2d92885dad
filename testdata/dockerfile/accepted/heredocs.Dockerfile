FROM debian AS base
RUN <<EOF
set -e
apt-get update
EOF
RUN <<-"SCRIPT"
	#!/bin/sh
	echo "$HOME"
	SCRIPT
COPY --chmod=755 <<one <<'two' /etc/
a $X
one
b $X
two
RUN cat <<A 3<<B
1
A
2
B
ONBUILD RUN <<EOF
echo later
EOF
