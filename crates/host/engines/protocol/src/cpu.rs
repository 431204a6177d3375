//! CPU features: those that this build's code may use anywhere, and those that this machine has.

/// Features that the compiler was allowed to use when it built this program.
///
/// A crate of the same build that chooses its kernels when it is compiled has these and no others.
pub fn compiled() -> Vec<String> {
    let mut names = Vec::new();
    macro_rules! look {
        ($($feature:tt),*) => {
            $(if cfg!(target_feature = $feature) {
                names.push($feature.to_owned());
            })*
        };
    }
    look!("sse2", "sse4.2", "avx", "f16c", "fma", "bmi2", "avx2", "avxvnni");
    look!("avx512f", "avx512bw", "avx512vnni", "avx512bf16");
    look!("neon", "fp16", "dotprod", "i8mm", "sve");
    names
}

/// The same names, as far as this machine has them.
pub fn detected() -> Vec<String> {
    let mut names = Vec::new();
    macro_rules! look {
        ($has:ident: $($feature:tt),*) => {
            $(if std::arch::$has!($feature) {
                names.push($feature.to_owned());
            })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    {
        look!(is_x86_feature_detected: "sse2", "sse4.2", "avx", "f16c", "fma", "bmi2", "avx2", "avxvnni");
        look!(is_x86_feature_detected: "avx512f", "avx512bw", "avx512vnni", "avx512bf16");
    }
    #[cfg(target_arch = "aarch64")]
    look!(is_aarch64_feature_detected: "neon", "fp16", "dotprod", "i8mm", "sve");
    names
}

/// Why a program compiled with `compiled` may be slow on a machine that has `detected`; `None` if it has everything.
pub fn crippled(compiled: &[String], detected: &[String]) -> Option<String> {
    let missing: Vec<_> = detected.iter().filter(|name| !compiled.contains(name)).cloned().collect();
    if missing.is_empty() {
        return None;
    }
    Some(format!(
        "compiled without {}, which this machine has: build with `cargo xtask engines build`, which sets target-cpu=native",
        missing.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_that_lacks_what_the_machine_has_says_so() {
        let names = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let why = crippled(&names(&["sse2"]), &names(&["sse2", "avx2", "fma"])).unwrap();
        assert!(why.contains("without avx2, fma,") && why.contains("target-cpu=native"), "{why}");
        assert_eq!(crippled(&names(&["avx2", "avx512f"]), &names(&["avx2"])), None);
    }

    #[test]
    fn what_every_machine_of_this_kind_has_is_in_both() {
        let name = if cfg!(target_arch = "aarch64") { "neon" } else { "sse2" }.to_owned();
        assert!(compiled().contains(&name) && detected().contains(&name));
        // Code that this machine runs was not compiled for more than it has.
        assert!(compiled().iter().all(|name| detected().contains(name)));
    }
}
