FROM scratch
COPY . /
ENV X=1
