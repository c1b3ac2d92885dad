ARG A=1 B
FROM --platform=$BUILDPLATFORM busybox:$A AS Main
MAINTAINER someone
ARG C="x y" D
ENV E=1 F='two words' G=a\ b
ENV OLD the rest of it
LABEL "a b"=c d=
ADD --checksum=sha256:00 --unpack=false --keep-git-dir https://example.org/x /x
COPY --link --parents --exclude=*.md --exclude=b/** a/./b c /d/
RUN --network=none --security=sandbox --mount=type=secret,id=s,env=S --mount=type=ssh ["a", "b"]
SHELL ["/bin/bash", "-c"]
USER 1:2
WORKDIR /w
VOLUME /v1 /v2
VOLUME ["/v 3"]
EXPOSE 80 90-91/udp $PORTS
STOPSIGNAL SIGRTMIN+3
HEALTHCHECK --start-interval=1s --retries=3 CMD ["x"]
HEALTHCHECK NONE
ONBUILD COPY --from=0 a b
ENTRYPOINT run $THIS
CMD []
