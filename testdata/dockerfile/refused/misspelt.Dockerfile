FRM busybox
FROM busybox AS 1st
COPPY a b
COPY --form=x a b
RUN --mount=tpye=bind,target=/x y
RUN --mount=type=chache,target=/x y
RUN --mont=type=cache y
