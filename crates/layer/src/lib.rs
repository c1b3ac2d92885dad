//! Trees to layers and back: the copy rules, deterministic tar, compression, safe apply.
