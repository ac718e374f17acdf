//! The `ssr` binary: parse, start, exit code.

fn main() {}
