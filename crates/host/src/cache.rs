//! Where the reference model lies. `cargo xtask` puts it there and tests look for it there, so all of them include this file.

use std::path::PathBuf;

/// The reference model's file name.
pub const MODEL_FILE: &str = "SmolLM2-135M-Instruct.Q4_1.gguf";

/// `$BARELM_CACHE`, else `barelm` in the user's cache folder.
pub fn folder() -> PathBuf {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    set("BARELM_CACHE")
        .or_else(|| set("XDG_CACHE_HOME").map(|cache| cache.join("barelm")))
        .or_else(|| set("HOME").map(|home| home.join(".cache/barelm")))
        .unwrap_or_else(|| std::env::temp_dir().join("barelm"))
}
