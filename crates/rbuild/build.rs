//! Links the one binary statically, so that it runs in a scratch image and on any distribution.
//!
//! `target-feature=+crt-static` cannot be set for the binary alone: without `--target` it also reaches the
//! procedural macros, which then fail to link. So the linker is told directly. The standard library asks for the
//! shared `libgcc_s`; a linker script of that name answers with its static halves.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    let target = std::env::var("TARGET").unwrap_or_default();
    if !target.ends_with("-linux-gnu") {
        return;
    }
    let directory = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    for (name, members) in [("gcc_s", "-lgcc_eh -lgcc"), ("c", "-l:libc.a"), ("m", "-l:libm.a")] {
        std::fs::write(format!("{directory}/lib{name}.so"), format!("GROUP ( {members} )\n"))
            .expect("OUT_DIR is writable");
    }
    // Not `rustc-link-search`: that would reach the package's test programs too, which are linked dynamically.
    println!("cargo::rustc-link-arg-bins=-L{directory}");
    println!("cargo::rustc-link-arg-bins=-no-pie");
    println!("cargo::rustc-link-arg-bins=-static");
}
