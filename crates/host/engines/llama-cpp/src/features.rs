//! Instructions: what the library was compiled for, by its own account, and what this machine has.

use std::ffi::CStr;

/// The library's line: `CPU : SSE3 = 1 | AVX2 = 1 | … | REPACK = 1 |`.
pub fn system_info() -> String {
    // SAFETY: the library gives a string of its own that lives as long as the program.
    let text = unsafe { CStr::from_ptr(llama_cpp_sys_2::llama_print_system_info()) };
    text.to_string_lossy().into_owned()
}

/// The names that are 1 in `info`.
pub fn compiled(info: &str) -> Vec<String> {
    let fields = info.split('|').filter_map(|field| field.split_once('='));
    fields
        .filter(|(_, value)| value.trim() == "1")
        // The first name of a backend has the backend's in front: `CPU : SSE3`.
        .map(|(name, _)| name.rsplit(':').next().unwrap_or(name).trim().to_owned())
        .collect()
}

/// What this machine has of what the library's kernels ask for, by the library's names.
pub fn detected() -> Vec<String> {
    let mut names = Vec::new();
    macro_rules! look {
        ($has:ident: $($feature:tt $name:literal),* $(,)?) => {
            $(if std::arch::$has!($feature) {
                names.push($name.to_owned());
            })*
        };
    }
    #[cfg(target_arch = "x86_64")]
    look!(is_x86_feature_detected: "sse3" "SSE3", "ssse3" "SSSE3", "avx" "AVX", "avx2" "AVX2", "f16c" "F16C", "fma" "FMA",
        "bmi2" "BMI2", "avxvnni" "AVX_VNNI", "avx512f" "AVX512", "avx512vbmi" "AVX512_VBMI",
        "avx512vnni" "AVX512_VNNI", "avx512bf16" "AVX512_BF16");
    #[cfg(target_arch = "aarch64")]
    look!(is_aarch64_feature_detected: "neon" "NEON", "fp16" "FP16_VA", "dotprod" "DOTPROD", "i8mm" "MATMUL_INT8", "sve" "SVE");
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use barelm_protocol::cpu::crippled;

    #[test]
    fn the_librarys_line_is_read() {
        let names = compiled("CPU : SSE3 = 1 | AVX2 = 1 | AVX512 = 0 | LLAMAFILE = 1 | REPACK = 1 | ");
        assert_eq!(names, ["SSE3", "AVX2", "LLAMAFILE", "REPACK"]);
    }

    #[test]
    fn a_build_that_lacks_what_the_machine_has_says_so() {
        let names = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
        let why = crippled(&names(&["AVX2"]), &names(&["AVX2", "AVX512"])).unwrap();
        assert!(why.contains("without AVX512,") && why.contains("target-cpu=native"), "{why}");
        assert_eq!(crippled(&names(&["AVX2", "OPENMP"]), &names(&["AVX2"])), None);
    }

    #[test]
    fn this_build_is_native() {
        let compiled = compiled(&system_info());
        assert!(compiled.contains(&"REPACK".to_owned()), "{compiled:?}");
        assert_eq!(crippled(&compiled, &detected()), None);
    }
}
