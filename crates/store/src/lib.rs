//! All state on disk: blobs, snapshots, cache records, tags, locks.
