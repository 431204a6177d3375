//! The bare-metal image; on a host, a message that says how to build it.
fn main() {
    eprintln!("barelm-image is a bare-metal program. Build and boot it with: cargo xtask qemu");
    std::process::exit(2);
}
