//! Link arguments of the bare-metal image; other targets get none.

use std::env;

fn main() {
    println!("cargo:rerun-if-changed=image.ld");
    let bare = env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none");
    if bare && env::var_os("CARGO_FEATURE_BOOT").is_some() {
        let root = env::var("CARGO_MANIFEST_DIR").expect("cargo sets it");
        // The image relocates itself: position-independent, addresses patched in read-only sections too.
        for argument in [
            &format!("-T{root}/image.ld"),
            "-pie",
            "-znotext",
            "-znorelro",
            "--no-dynamic-linker",
            // Addresses to patch as bitmaps: a tenth of a table's bytes.
            "--pack-dyn-relocs=relr",
            "--build-id=sha1",
        ] {
            println!("cargo:rustc-link-arg-bin=barelm-image={argument}");
        }
    }
}
