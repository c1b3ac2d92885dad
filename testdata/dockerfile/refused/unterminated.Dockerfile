FROM busybox
COPY <<EOF /x
a
