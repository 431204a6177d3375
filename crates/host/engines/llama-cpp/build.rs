//! Tells the program which version of the bindings it was locked to, for its greeting.

fn main() {
    println!("cargo::rerun-if-changed=Cargo.lock");
    let lock = std::fs::read_to_string("Cargo.lock").expect("the lock file lies beside the manifest");
    let entry = lock.split("[[package]]").find(|entry| entry.contains("name = \"llama-cpp-2\""));
    let version = entry.and_then(|entry| entry.split("version = \"").nth(1)?.split('"').next());
    println!("cargo::rustc-env=LLAMA_CPP_2={}", version.expect("llama-cpp-2 is locked"));
}
