//! Prints all that is wrong in a Dockerfile: `cargo run --example diagnose Dockerfile`.
#![allow(clippy::print_stdout, reason = "an example prints")]

use rbuild_dockerfile::{GraphArguments, LineIndex, ParseOptions, diagnose};

fn main() -> std::io::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "Dockerfile".to_owned());
    let source = std::fs::read_to_string(&name)?;
    let lines = LineIndex::new(&source);
    for error in diagnose(&source, ParseOptions::default(), &GraphArguments::default()) {
        let at = lines.position(&source, error.span.start);
        println!("{name}:{}:{}: {}", at.line, at.column, error.message);
        if let Some(help) = error.help {
            println!("    {help}");
        }
    }
    Ok(())
}
