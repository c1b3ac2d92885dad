//! Drives a plan to an image: cache look-up, stages side by side, outputs.
