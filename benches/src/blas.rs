//! BLAS libraries that the system has, loaded when a bench runs.
//!
//! OpenBLAS chooses its kernels when it is loaded, as it is told by a variable of the environment or as it knows the processor; so
//! [`Openblas::best_core_type`] tries what it could be told, each in a process of its own, and takes the fastest. Its threads spin between
//! calls unless told not to, which would disturb whoever runs next.

use std::ffi::{CStr, c_char, c_int};
use std::process::Command;
use std::time::{Duration, Instant};

use libloading::Library;

type Sgemm = unsafe extern "C" fn(
    c_int, // layout
    c_int, // transposition of a
    c_int, // transposition of b
    c_int, // m
    c_int, // n
    c_int, // k
    f32,   // alpha
    *const f32,
    c_int, // row step of a
    *const f32,
    c_int, // row step of b
    f32,   // beta
    *mut f32,
    c_int, // row step of c
);

const ROW_MAJOR: c_int = 101;
const AS_IT_IS: c_int = 111;
const TURNED: c_int = 112;

/// How a library says how many threads it may use.
type SetThreads = unsafe extern "C" fn(c_int);

/// A library with `cblas_sgemm`.
pub struct Blas {
    /// Its name, and what it says of itself.
    pub name: String,
    sgemm: Sgemm,
    set_threads: SetThreads,
    // Functions above live as long as it.
    _library: Library,
}

/// Set for the process whose OpenBLAS has been told its core type.
const CHOSEN: &str = "BARELM_BENCH_CORE_TYPE";
/// Set for a process that only measures one core type.
const PROBE: &str = "BARELM_BENCH_PROBE";
/// Core types of x86-64 that OpenBLAS may know; an empty name leaves the choice to it.
const CORE_TYPES: [&str; 6] = ["", "Haswell", "Zen", "SkylakeX", "Cooperlake", "SapphireRapids"];

impl Blas {
    /// OpenBLAS, or why not.
    ///
    /// # Errors
    /// With the command that installs it.
    pub fn openblas() -> Result<Self, String> {
        let names: &[&str] = if cfg!(target_os = "macos") {
            &["libopenblas.dylib", "/opt/homebrew/opt/openblas/lib/libopenblas.dylib"]
        } else if cfg!(windows) {
            &["libopenblas.dll", "openblas.dll"]
        } else {
            &["libopenblas.so.0", "libopenblas.so"]
        };
        let library = load("BARELM_OPENBLAS", names).ok_or_else(|| {
            install(["apt install libopenblas0", "brew install openblas", "vcpkg install openblas"])
        })?;
        // SAFETY: these are the functions' C declarations in OpenBLAS's `cblas.h`.
        unsafe {
            let name = match library.get::<unsafe extern "C" fn() -> *const c_char>(b"openblas_get_corename")
            {
                Ok(name) => CStr::from_ptr(name()).to_string_lossy().into_owned(),
                Err(_) => "core type unknown".to_owned(),
            };
            let (sgemm, set_threads) = functions(&library, b"openblas_set_num_threads")?;
            Ok(Blas { name: format!("OpenBLAS ({name})"), sgemm, set_threads, _library: library })
        }
    }

    /// Intel's MKL, or why not.
    ///
    /// # Errors
    /// With the command that installs it.
    pub fn mkl() -> Result<Self, String> {
        let names: &[&str] = if cfg!(windows) {
            &["mkl_rt.2.dll", "mkl_rt.dll"]
        } else {
            &[
                "libmkl_rt.so.2",
                "libmkl_rt.so.3",
                "libmkl_rt.so",
                "/opt/intel/oneapi/mkl/latest/lib/libmkl_rt.so",
            ]
        };
        let library = load("BARELM_MKL", names).ok_or_else(|| {
            install(["apt install intel-mkl", "none for this system", "vcpkg install intel-mkl"])
                + ", or pip install mkl in a virtual environment that is active, or BARELM_MKL=its libmkl_rt"
        })?;
        // SAFETY: these are the functions' C declarations in MKL's headers.
        unsafe {
            let (sgemm, set_threads) = functions(&library, b"MKL_Set_Num_Threads")?;
            Ok(Blas { name: "MKL".to_owned(), sgemm, set_threads, _library: library })
        }
    }

    /// How many threads the next products may use.
    pub fn set_threads(&self, threads: usize) {
        // SAFETY: takes any number.
        unsafe { (self.set_threads)(threads as c_int) }
    }

    /// `out = a b`, row-major: `a` is `m × k`, `b` is `k × n`, or `n × k` if it lies turned.
    pub fn sgemm(&self, [m, n, k]: [usize; 3], a: &[f32], b: &[f32], turned: bool, out: &mut [f32]) {
        assert!(a.len() == m * k && b.len() == k * n && out.len() == m * n, "sizes agree");
        let [rows, columns, terms] = [m, n, k].map(|size| c_int::try_from(size).expect("an int"));
        // SAFETY: sizes agree with the slices, as just asserted.
        unsafe {
            (self.sgemm)(
                ROW_MAJOR,
                AS_IT_IS,
                if turned { TURNED } else { AS_IT_IS },
                rows,
                columns,
                terms,
                1.0,
                a.as_ptr(),
                terms.max(1),
                b.as_ptr(),
                if turned { terms } else { columns }.max(1),
                0.0,
                out.as_mut_ptr(),
                columns.max(1),
            );
        }
    }
}

/// Both functions of a library.
///
/// # Safety
/// The library's functions of these names have these declarations.
unsafe fn functions(library: &Library, set_threads: &[u8]) -> Result<(Sgemm, SetThreads), String> {
    let missing = |error: libloading::Error| error.to_string();
    // SAFETY: as the caller says.
    unsafe {
        Ok((
            *library.get::<Sgemm>(b"cblas_sgemm").map_err(missing)?,
            *library.get::<SetThreads>(set_threads).map_err(missing)?,
        ))
    }
}

/// The library at the path that a variable holds, or under one of its usual names.
fn load(variable: &str, names: &[&str]) -> Option<Library> {
    let told = std::env::var(variable).ok().filter(|path| !path.is_empty());
    // Python's package of MKL puts it here.
    let environment = std::env::var("VIRTUAL_ENV").ok().filter(|path| !path.is_empty());
    let inside =
        environment.iter().flat_map(|path| names.iter().map(move |name| format!("{path}/lib/{name}")));
    told.into_iter()
        .chain(names.iter().map(|&name| name.to_owned()))
        .chain(inside)
        // SAFETY: a BLAS library's initialisation only looks at the processor and its variables.
        .find_map(|name| unsafe { Library::new(name) }.ok())
}

fn install([linux, mac, windows]: [&str; 3]) -> String {
    let command = match std::env::consts::OS {
        "macos" => mac,
        "windows" => windows,
        _ => linux,
    };
    format!("install it: {command}")
}

/// OpenBLAS's choice of kernels.
pub struct Openblas;

impl Openblas {
    /// Runs this program again with the core type that is fastest here, and with threads of OpenBLAS and MKL that sleep when they have
    /// nothing to do; ends with its status, and returns in that second process. The speeds tried are printed.
    pub fn best_core_type() {
        if std::env::var_os(PROBE).is_some() {
            probe();
            std::process::exit(0);
        }
        if std::env::var_os(CHOSEN).is_some() {
            return;
        }
        let Ok(own) = std::env::current_exe() else { return };
        let mut best: Option<(f64, &str)> = None;
        for core_type in CORE_TYPES {
            let output = command(&own, core_type).env(PROBE, "1").output();
            let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned());
            let Some((name, rate)) = text.ok().and_then(|text| {
                let (name, rate) = text.trim().rsplit_once(' ')?;
                Some((name.to_owned(), rate.parse::<f64>().ok()?))
            }) else {
                continue;
            };
            let told = if core_type.is_empty() { "left to itself" } else { core_type };
            println!("OpenBLAS, core type {told}: {name}, {rate:.0} GFLOP/s at 512, one thread");
            if best.is_none_or(|(most, _)| rate > most) {
                best = Some((rate, core_type));
            }
        }
        let (_, core_type) = best.unwrap_or((0.0, ""));
        let status =
            command(&own, core_type).env(CHOSEN, core_type).args(std::env::args_os().skip(1)).status();
        std::process::exit(status.ok().and_then(|status| status.code()).unwrap_or(1));
    }
}

fn command(own: &std::path::Path, core_type: &str) -> Command {
    let mut command = Command::new(own);
    // Threads that wait sleep soon, as those of the other contenders do.
    command.env("OPENBLAS_THREAD_TIMEOUT", "4").env("KMP_BLOCKTIME", "0");
    if core_type.is_empty() {
        command.env_remove("OPENBLAS_CORETYPE");
    } else {
        command.env("OPENBLAS_CORETYPE", core_type);
    }
    command
}

/// Prints the name of OpenBLAS's kernels and their speed.
fn probe() {
    let Ok(blas) = Blas::openblas() else { return };
    blas.set_threads(1);
    let n = 512;
    let (a, b, mut out) = (vec![0.5; n * n], vec![0.25; n * n], vec![0.0; n * n]);
    let mut least = f64::INFINITY;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(150) {
        let start = Instant::now();
        blas.sgemm([n; 3], &a, &b, false, &mut out);
        least = least.min(start.elapsed().as_secs_f64());
    }
    println!("{} {}", blas.name, 2.0 * (n * n * n) as f64 / least / 1e9);
}
