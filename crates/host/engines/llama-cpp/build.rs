//! Tells the program which version of the bindings it was locked to, for its greeting.

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = std::fs::read_to_string("Cargo.lock").expect("the lock file lies beside the manifest");
    let entry = lock.split("[[package]]").find(|entry| entry.contains("name = \"llama-cpp-2\""));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
    // The sys crate asks for static libraries of cuBLAS, which no Python package has: `tools/cuda-home.sh` makes empty ones, and
    // the shared ones stand behind them.
    if std::env::var_os("CARGO_FEATURE_CUDA").is_some() {
        println!("cargo::rustc-link-arg=-lcublas");
        println!("cargo::rustc-link-arg=-lcublasLt");
    }
    println!("cargo::rustc-env=LLAMA_CPP_2={}", version.expect("llama-cpp-2 is locked"));
}
