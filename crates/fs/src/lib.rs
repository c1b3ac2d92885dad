//! File work beneath a root: resolution that never escapes, errors that carry the path, the ownership journal.
