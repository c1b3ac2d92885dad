//! Images as files: OCI layouts (a directory or a tar) and `docker save` archives.
