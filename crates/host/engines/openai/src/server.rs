//! The server, over HTTP.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use barelm_protocol::now_ns;
use serde_json::Value;
use ureq::Agent;
use ureq::http::Response;

use crate::chunk::{Chunk, short};

/// How long connecting, and the answer to a question about the server itself, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest line of a stream that is read.
const LONGEST_LINE: u64 = 1 << 20;

/// An OpenAI-compatible server.
#[derive(Debug)]
pub struct Server {
    agent: Agent,
    /// Up to and with `/v1`.
    base: String,
    key: Option<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub enum Failure {
    /// The server answers with a status that is no success; and what it says.
    Status(u16, String),
    /// It does not answer, or not as it should.
    Broken(String),
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Status(status, said) => write!(f, "the server answers {status}: {said}"),
            Failure::Broken(why) => f.write_str(why),
        }
    }
}

impl Server {
    /// `url` with or without `/v1`.
    pub fn new(url: &str, key: Option<String>) -> Result<Self, String> {
        if url.starts_with("https://") && !cfg!(feature = "tls") {
            return Err(format!("{url}: this program was built without https; build it with --features tls"));
        }
        if !url.starts_with("http://") && !url.starts_with("https://") {
            return Err(format!("{url}: an address such as http://127.0.0.1:8000/v1 is wanted"));
        }
        let base = url.trim_end_matches('/');
        let base = if base.ends_with("/v1") { base.to_owned() } else { format!("{base}/v1") };
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(PATIENCE))
            // What lies between would be measured too.
            .proxy(None)
            // A connection of its own for every request: one that was kept may be closed by the server when it is used again.
            .max_idle_connections(0)
            .max_idle_connections_per_host(0)
            .build()
            .into();
        Ok(Server { agent, base, key })
    }

    /// A JSON document; `path` begins with a slash and is below `/v1`, or with two dots and is beside it.
    fn get(&self, path: &str) -> Result<Value, Failure> {
        let url = match path.strip_prefix("..") {
            Some(beside) => format!("{}{beside}", self.base.trim_end_matches("/v1")),
            None => format!("{}{path}", self.base),
        };
        let broken = |error: &dyn std::fmt::Display| Failure::Broken(format!("{url}: {error}"));
        let mut request = self.agent.get(&url).config().timeout_global(Some(PATIENCE)).build();
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.call().map_err(|error| broken(&error))?;
        let text = response.body_mut().read_to_string().map_err(|error| broken(&error))?;
        if !response.status().is_success() {
            return Err(Failure::Status(response.status().as_u16(), short(&text)));
        }
        serde_json::from_str(&text).map_err(|error| broken(&error))
    }

    /// Names of its models.
    pub fn models(&self) -> Result<Vec<String>, Failure> {
        let list = self.get("/models")?;
        let models = list["data"].as_array().cloned().unwrap_or_default();
        Ok(models.iter().filter_map(|model| model["id"].as_str().map(str::to_owned)).collect())
    }

    /// What it is, as far as it says so: vLLM and SGLang have `/version`, llama.cpp has `/props`.
    pub fn version(&self) -> String {
        if let Some(version) =
            self.get("../version").ok().and_then(|v| v["version"].as_str().map(str::to_owned))
        {
            return format!("server {version}");
        }
        match self.get("../props").ok().and_then(|props| props["build_info"].as_str().map(str::to_owned)) {
            Some(build) => format!("llama.cpp server {build}"),
            None => "server of an unknown version".into(),
        }
    }

    /// Asks for a completion and hands every event, with the moment its line was there, to `listen` until that says
    /// false; then the connection is closed, which is how a server is told to stop.
    pub fn complete(&self, body: &Value, mut listen: impl FnMut(Chunk, u64) -> bool) -> Result<(), Failure> {
        let url = format!("{}/completions", self.base);
        let broken = |error: &dyn std::fmt::Display| Failure::Broken(format!("{url}: {error}"));
        let mut request = self.agent.post(&url).header("Content-Type", "application/json");
        if let Some(key) = &self.key {
            request = request.header("Authorization", format!("Bearer {key}"));
        }
        let mut response = request.send(body.to_string()).map_err(|error| broken(&error))?;
        if !response.status().is_success() {
            let said = response.body_mut().read_to_string().unwrap_or_default();
            return Err(Failure::Status(response.status().as_u16(), short(&said)));
        }
        events(response, &mut listen)
    }
}

/// Reads a stream of events. Its end without `[DONE]` is a server that has broken off.
fn events(response: Response<ureq::Body>, listen: &mut dyn FnMut(Chunk, u64) -> bool) -> Result<(), Failure> {
    let mut reader = BufReader::new(response.into_body().into_reader());
    let mut line = Vec::new();
    loop {
        line.clear();
        let read = reader.by_ref().take(LONGEST_LINE).read_until(b'\n', &mut line);
        let t_ns = now_ns();
        match read {
            Err(error) => return Err(Failure::Broken(format!("the stream broke: {error}"))),
            Ok(0) => {
                return Err(Failure::Broken("the server ended the stream before the answer's end".into()));
            }
            Ok(_) if !line.ends_with(b"\n") && line.len() as u64 == LONGEST_LINE => {
                return Err(Failure::Broken("the server sent a line of more than a megabyte".into()));
            }
            Ok(_) => {}
        }
        let text = String::from_utf8_lossy(&line);
        // Lines without data are comments, names of events and the blank lines between them.
        let Some(data) = text.trim_end().strip_prefix("data:").map(str::trim_start) else { continue };
        if data == "[DONE]" {
            return Ok(());
        }
        let chunk = Chunk::parse(data).map_err(Failure::Broken)?;
        if !listen(chunk, t_ns) {
            return Ok(());
        }
    }
}
