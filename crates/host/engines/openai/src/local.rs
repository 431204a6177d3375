//! A server on this machine: which processes it is, so that its time and memory are told from those of strangers.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};

use ureq::http::Uri;

/// Processes on this machine that listen at the address of `url`: several where they share it. None for a server elsewhere,
/// of another user, in a container of its own, and on systems without Linux's `/proc`.
pub fn processes(url: &str) -> Vec<u32> {
    let all: BTreeSet<u32> = addresses(url).into_iter().filter(is_here).flat_map(listening).collect();
    all.into_iter().collect()
}

/// What the host's name stands for.
fn addresses(url: &str) -> Vec<SocketAddr> {
    let Ok(url) = url.parse::<Uri>() else { return Vec::new() };
    let Some(host) = url.host() else { return Vec::new() };
    let port = url.port_u16().unwrap_or(if url.scheme_str() == Some("https") { 443 } else { 80 });
    // An IPv6 address stands in brackets.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    (host, port).to_socket_addrs().map(Iterator::collect).unwrap_or_default()
}

/// Only addresses of this machine can be bound.
fn is_here(address: &SocketAddr) -> bool {
    TcpListener::bind((address.ip(), 0)).is_ok()
}

#[cfg(target_os = "linux")]
fn listening(address: SocketAddr) -> Vec<u32> {
    use procfs::net::TcpState;
    use procfs::process::{FDTarget, all_processes};

    let sockets = [procfs::net::tcp(), procfs::net::tcp6()].into_iter().filter_map(Result::ok).flatten();
    let there = |local: SocketAddr| {
        local.port() == address.port() && (local.ip() == address.ip() || local.ip().is_unspecified())
    };
    let sockets: Vec<u64> = sockets
        .filter(|socket| socket.state == TcpState::Listen && there(socket.local_address))
        .map(|socket| socket.inode)
        .collect();
    if sockets.is_empty() {
        return Vec::new();
    }
    let holds = |process: &procfs::process::Process| {
        // Files of other users' processes are not shown.
        let files = process.fd().into_iter().flatten().filter_map(Result::ok);
        files
            .into_iter()
            .any(|file| matches!(file.target, FDTarget::Socket(inode) if sockets.contains(&inode)))
    };
    let processes = all_processes().into_iter().flatten().filter_map(Result::ok);
    processes.filter(holds).filter_map(|process| u32::try_from(process.pid).ok()).collect()
}

#[cfg(not(target_os = "linux"))]
fn listening(_: SocketAddr) -> Vec<u32> {
    Vec::new()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    const NONE: [u32; 0] = [];

    #[test]
    fn a_server_here_is_found_by_every_name_of_its_address() {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = server.local_addr().unwrap().port();
        let me = [std::process::id()];
        assert_eq!(processes(&format!("http://127.0.0.1:{port}/v1")), me);
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let port_everywhere = everywhere.local_addr().unwrap().port();
        assert_eq!(processes(&format!("http://127.0.0.1:{port_everywhere}")), me);
        // Another address of this machine, at which nobody listens.
        assert_eq!(processes(&format!("http://127.0.0.2:{port}/v1")), NONE);
    }

    #[test]
    fn a_server_elsewhere_is_none_of_ours_though_the_port_is() {
        let everywhere = TcpListener::bind("0.0.0.0:0").unwrap();
        let port = everywhere.local_addr().unwrap().port();
        // An address for documentation (RFC 5737), which no machine has; nothing is sent to it.
        assert_eq!(processes(&format!("http://192.0.2.1:{port}/v1")), NONE);
        assert_eq!(processes("http://[::1"), NONE);
        assert_eq!(processes("nothing"), NONE);
    }

    #[test]
    fn ports_and_brackets_are_understood() {
        let only = |url: &str| addresses(url).first().map(SocketAddr::to_string);
        assert_eq!(only("http://127.0.0.1/v1").as_deref(), Some("127.0.0.1:80"));
        assert_eq!(only("https://127.0.0.1").as_deref(), Some("127.0.0.1:443"));
        assert_eq!(only("http://[::1]:8000/v1").as_deref(), Some("[::1]:8000"));
    }
}
