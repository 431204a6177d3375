//! For libraries that keep the threads they started with: a request for another number starts the program anew, in the
//! same process, and goes on there.
//!
//! What was read behind that request is lost, so whoever asks waits for the answer to `load` first.

use std::io::{self, BufRead, BufReader, Cursor, Read, Write};
use std::process::{Command, ExitCode};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::engine::Backend;
use crate::message::Request;
use crate::serve::{report, serve};

/// Number of threads of this process, once it is fixed.
static FIXED: OnceLock<usize> = OnceLock::new();
/// Whether this is a session; the short form cannot go on in another program.
static SESSION: AtomicBool = AtomicBool::new(false);

/// Holds the request that a program was started anew for.
const REQUEST: &str = "BARELM_ENGINE_REQUEST";
/// What libraries read their number of threads from.
const THREADS: [&str; 2] = ["RAYON_NUM_THREADS", "CANDLE_NUM_THREADS"];

/// Gives this process so many threads, before the library's first product. If it has another number already, the
/// program starts anew and answers `request` there: then this does not return.
///
/// # Errors
/// For a number that is none, and where the program cannot be started.
pub fn fix(threads: usize, request: &Request) -> Result<(), String> {
    if !(1..=1024).contains(&threads) {
        return Err("threads: from 1 to 1024".into());
    }
    let fixed = *FIXED.get_or_init(|| {
        for name in THREADS {
            // SAFETY: the one other thread of an engine that has not computed yet reads standard input, and nothing of the
            // environment.
            unsafe { std::env::set_var(name, threads.to_string()) };
        }
        threads
    });
    if fixed == threads {
        return Ok(());
    }
    if !SESSION.load(Ordering::Relaxed) {
        return Err(format!("threads: this program has {fixed} already; start it again"));
    }
    start_anew(threads, request).map_err(|error| format!("threads: {error}"))
}

#[cfg(unix)]
fn start_anew(threads: usize, request: &Request) -> io::Result<()> {
    use std::os::unix::process::CommandExt;
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1)).env(REQUEST, serde_json::to_string(request)?);
    for name in THREADS {
        again.env(name, threads.to_string());
    }
    Err(again.exec())
}

#[cfg(not(unix))]
fn start_anew(_threads: usize, _request: &Request) -> io::Result<()> {
    Err(io::Error::other("this program keeps the threads it started with; start it again"))
}

/// [`serve_standard`](crate::serve_standard) for an engine that calls [`fix`].
pub fn serve_standard(backend: &dyn Backend) -> ExitCode {
    SESSION.store(true, Ordering::Relaxed);
    let input = BufReader::new(io::stdin());
    let served = match std::env::var(REQUEST) {
        Err(_) => serve(backend, Watching(input), io::stdout().lock()),
        Ok(request) => {
            // The greeting was said before this program was started anew.
            let input = Cursor::new(format!("{request}\n")).chain(input);
            serve(backend, input, Greeted { output: io::stdout().lock(), silent: true })
        }
    };
    report(backend, served)
}

/// Input that may open with the short form.
struct Watching<R>(R);

impl<R: Read> Read for Watching<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl<R: BufRead> BufRead for Watching<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let bytes = self.0.fill_buf()?;
        // A session's lines have a `type`, the short form's a prompt.
        let has = |word: &[u8]| bytes.windows(word.len()).any(|window| window == word);
        if has(b"\"prompt") && !has(b"\"type\"") {
            SESSION.store(false, Ordering::Relaxed);
        }
        Ok(bytes)
    }

    fn consume(&mut self, count: usize) {
        self.0.consume(count);
    }
}

/// Output without its first line.
struct Greeted<W> {
    output: W,
    silent: bool,
}

impl<W: Write> Write for Greeted<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if !self.silent {
            return self.output.write(bytes);
        }
        match bytes.iter().position(|&byte| byte == b'\n') {
            None => Ok(bytes.len()),
            Some(end) => {
                self.silent = false;
                Ok(end + 1)
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_and_no_other_is_left_out() {
        for size in [1, 3, 100] {
            let mut output = Greeted { output: Vec::new(), silent: true };
            for piece in b"{\"hello\"}\n{\"loaded\"}\nrest\n".chunks(size) {
                output.write_all(piece).unwrap();
            }
            assert_eq!(output.output, b"{\"loaded\"}\nrest\n", "pieces of {size}");
        }
    }

    #[test]
    fn no_number_of_threads_is_refused() {
        for threads in [0, 5000] {
            assert!(fix(threads, &Request::Quit).unwrap_err().contains("from 1 to 1024"));
        }
    }
}
