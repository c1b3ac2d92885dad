//! The distribution protocol: resolve, pull, push, log in; mirrors, retries.
