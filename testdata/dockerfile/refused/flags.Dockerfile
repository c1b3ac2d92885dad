FROM busybox
COPY --chown=a --chown=b x y
COPY --link=maybe x y
COPY --link= --chmod= x y
COPY --from x y
ADD --from=a x y
RUN --network=bridge x
RUN --security=off x
CMD --x y
