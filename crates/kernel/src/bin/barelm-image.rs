//! The bare-metal image; on a host, a message that says how to build it.
#![cfg_attr(target_os = "none", no_std, no_main)]

// The entry point, the panic handler and everything else are the library's.
#[cfg(target_os = "none")]
use barelm as _;

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("barelm-image is a bare-metal program. Build and boot it with: cargo xtask qemu");
    std::process::exit(2);
}
