//! A build context as a filtered tree with content digests.
