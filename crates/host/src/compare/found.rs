//! Engines that are on the machine though this project did not build them: servers that run, programs, libraries.

use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

/// Servers and the ports that they listen on unless told otherwise.
const SERVERS: [(&str, u16); 4] =
    [("llama-server", 8080), ("ollama", 11434), ("vLLM", 8000), ("SGLang", 30000)];
/// Programs that could serve.
const PROGRAMS: [&str; 4] = ["llama-server", "ollama", "vllm", "mistralrs-server"];

/// A line for each find, with what to do with it.
pub fn elsewhere() -> Vec<String> {
    let mut lines = Vec::new();
    for (name, port) in SERVERS {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        if TcpStream::connect_timeout(&address, Duration::from_millis(100)).is_ok() {
            lines.push(format!(
                "found: a server on port {port} ({name}'s): --engine server='openai-bench --url http://127.0.0.1:{port}'"
            ));
        }
    }
    let folders: Vec<PathBuf> =
        std::env::var_os("PATH").map(|path| std::env::split_paths(&path).collect()).unwrap_or_default();
    for name in PROGRAMS {
        if let Some(program) =
            folders.iter().map(|folder| folder.join(name)).find(|program| program.is_file())
        {
            lines.push(format!(
                "found: {}: start it with a model, and it joins through openai-bench",
                program.display()
            ));
        }
    }
    if has_torch() {
        lines.push(
            "found: PyTorch in this machine's Python: cargo xtask engines build pytorch uses its own copy"
                .into(),
        );
    }
    lines
}

/// Whether `python3` would find torch; it is not imported, which takes seconds.
fn has_torch() -> bool {
    let script = "import importlib.util, sys; sys.exit(importlib.util.find_spec('torch') is None)";
    let status =
        Command::new("python3").args(["-c", script]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    #[test]
    fn a_server_is_found_by_its_port() {
        // The port may be taken by a real server, which is as good, or by another run of this test, which may just end.
        let found = (0..5).any(|_| {
            let _listener = TcpListener::bind(("127.0.0.1", 30000));
            elsewhere().iter().any(|line| line.contains("30000") && line.contains("openai-bench"))
        });
        assert!(found);
    }
}
