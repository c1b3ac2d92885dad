//! The Dockerfile language: parser, expansion, build checks, stage graph.
