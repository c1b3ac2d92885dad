# escape=`
FROM mcr.example/windows
WORKDIR C:\app
RUN dir `
    # here
    C:\
ENV P="C:\x`$y" Q=a` b
