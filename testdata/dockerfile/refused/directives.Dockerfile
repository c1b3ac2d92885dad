# escape=x
# escape=`
FROM busybox
