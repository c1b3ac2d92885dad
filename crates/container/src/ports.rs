//! Ports of the host that lead into a container: we listen here, and make a socket inside for each that comes.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use rbuild_engine::{Failure, FailureKind};
use rbuild_executor::NetworkNamespace;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use serde::{Deserialize, Serialize};

/// How long a UDP client is remembered that hears nothing.
const UDP_PATIENCE: Duration = Duration::from_secs(90);
/// The largest datagram.
const DATAGRAM: usize = 65536;

/// A protocol with ports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "their names say it")]
pub enum Protocol {
    Tcp,
    Udp,
}

/// One port of the host, and where it leads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Port {
    /// Address of the host; every one where none is given.
    pub address: Option<IpAddr>,
    /// Port of the host; 0 leaves it to the kernel.
    pub host: u16,
    /// Port in the container.
    pub container: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Port {
    /// As `docker ps` shows it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Port { address, host, container, protocol } = self;
        match address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()) {
            IpAddr::V4(address) => write!(f, "{address}:{host}->{container}/{protocol}"),
            IpAddr::V6(address) => write!(f, "[{address}]:{host}->{container}/{protocol}"),
        }
    }
}

impl Port {
    /// Reads `[[ADDRESS:]HOST:]CONTAINER[/tcp|/udp]`; both may be ranges of one length, `8000-8002:80-82`.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Vec<Port>, String> {
        let (ports, protocol) = match text.rsplit_once('/') {
            None => (text, Protocol::Tcp),
            Some((ports, "tcp")) => (ports, Protocol::Tcp),
            Some((ports, "udp")) => (ports, Protocol::Udp),
            Some((_, other)) => return Err(format!("`{other}` is neither `tcp` nor `udp`")),
        };
        let (before, container) = match ports.rsplit_once(':') {
            Some((before, container)) => (Some(before), container),
            None => (None, ports),
        };
        let (address, host) = match before {
            None => (None, ""),
            Some(before) => match before.rsplit_once(':') {
                Some((address, host)) => (Some(address), host),
                None => (None, before),
            },
        };
        let address = address.filter(|address| !address.is_empty()).map(|address| {
            let bare = address.trim_start_matches('[').trim_end_matches(']');
            bare.parse::<IpAddr>().map_err(|_| format!("`{address}` is no address"))
        });
        let address = address.transpose()?;
        let (first, last) = range(container)?;
        let (first_here, last_here) = if host.is_empty() { (0, 0) } else { range(host)? };
        if !host.is_empty() && last - first != last_here - first_here {
            return Err("the two ranges differ in length".to_owned());
        }
        let port = |offset| Port {
            address,
            host: if host.is_empty() { 0 } else { first_here + offset },
            container: first + offset,
            protocol,
        };
        Ok((0..=last - first).map(port).collect())
    }
}

fn range(text: &str) -> Result<(u16, u16), String> {
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 => Ok(port),
        _ => Err(format!("`{text}` is no port (1 to 65535)")),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (number(first)?, number(last)?);
    if first > last { Err(format!("the range `{text}` is empty")) } else { Ok((first, last)) }
}

/// A socket of the host that listens, before it leads anywhere.
#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Udp(UdpSocket),
}

/// The sockets of all ports, bound: nobody else can take them now.
#[derive(Debug)]
pub(crate) struct Listeners {
    /// The ports, with those that the kernel chose.
    pub(crate) ports: Vec<Port>,
    listeners: Vec<(Listener, u16)>,
}

impl Listeners {
    /// Binds all of them, or says which one could not be.
    pub(crate) fn bind(ports: &[Port]) -> rbuild_engine::Result<Listeners> {
        let mut bound = Listeners { ports: Vec::new(), listeners: Vec::new() };
        for port in ports {
            let mut port = *port;
            let first = port.address.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
            let (listener, host) =
                listen(port.protocol, first, port.host).map_err(|error| refused(&port, error))?;
            port.host = host;
            bound.listeners.push((listener, port.container));
            // Every address is of both kinds; machines without IPv6 have none of that kind.
            if port.address.is_none()
                && let Ok((listener, _)) = listen(port.protocol, Ipv6Addr::UNSPECIFIED.into(), host)
            {
                bound.listeners.push((listener, port.container));
            }
            bound.ports.push(port);
        }
        Ok(bound)
    }

    /// Passes on what comes, by threads that live as long as this process.
    pub(crate) fn lead_into(self, namespace: &Arc<NetworkNamespace>) -> io::Result<()> {
        for (listener, port) in self.listeners {
            let namespace = namespace.clone();
            thread::Builder::new().name("port".to_owned()).spawn(move || {
                // Only the sockets that this thread and its children make from now on are inside.
                if namespace.join().is_ok() {
                    match listener {
                        Listener::Tcp(listener) => pass_connections(&listener, port),
                        Listener::Udp(socket) => pass_datagrams(&Arc::new(socket), port),
                    }
                }
            })?;
        }
        Ok(())
    }
}

/// The socket, and the port that it got.
fn listen(protocol: Protocol, address: IpAddr, port: u16) -> io::Result<(Listener, u16)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    if address.is_ipv6() {
        // Beside the socket for IPv4.
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of a container that has just ended do not keep its port.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(address, port))?;
    match protocol {
        Protocol::Tcp => {
            rustix::net::listen(&socket, 1024)?;
            let listener = TcpListener::from(socket);
            let port = listener.local_addr()?.port();
            Ok((Listener::Tcp(listener), port))
        }
        Protocol::Udp => {
            let socket = UdpSocket::from(socket);
            let port = socket.local_addr()?.port();
            Ok((Listener::Udp(socket), port))
        }
    }
}

fn refused(port: &Port, error: io::Error) -> Failure {
    let Port { host, container, protocol, .. } = port;
    let message = format!("could not listen on port {host}/{protocol} of this machine");
    let higher = u32::from(*host) + 8000;
    let help = match error.kind() {
        io::ErrorKind::PermissionDenied => Some(format!(
            "ports below {} are for root: take a higher one (`-p {higher}:{container}`), or allow it as root with `sysctl -w net.ipv4.ip_unprivileged_port_start={host}`",
            first_port_of_users(),
        )),
        io::ErrorKind::AddrInUse => Some(format!(
            "something listens there already (`rbuild ps` shows the ports of containers, `ss -ltnup` all): take another port, or `-p {container}` for any that is free"
        )),
        io::ErrorKind::AddrNotAvailable => Some("this machine has no such address".to_owned()),
        _ => None,
    };
    let failure = Failure::new(FailureKind::Environment, message).caused_by(error);
    match help {
        Some(help) => failure.help(help),
        None => failure,
    }
}

fn first_port_of_users() -> u16 {
    let text = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    text.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024)
}

/// A container's own addresses: programs listen on one of them, or on all.
fn inside(port: u16) -> [SocketAddr; 2] {
    [(Ipv4Addr::LOCALHOST, port).into(), (Ipv6Addr::LOCALHOST, port).into()]
}

fn pass_connections(listener: &TcpListener, port: u16) {
    loop {
        let client = match listener.accept() {
            Ok((client, _)) => client,
            // Out of descriptors: some will be closed.
            Err(_) => {
                thread::sleep(Duration::from_millis(50));
                continue;
            }
        };
        // A thread that cannot be had closes the connection, as a machine does that is out of them.
        let _ = thread::Builder::new().name("connection".to_owned()).stack_size(128 << 10).spawn(move || {
            // Nobody listens inside: the client sees its connection closed.
            if let Ok(server) = TcpStream::connect(&inside(port)[..]) {
                pass_both_ways(client, server);
            }
        });
    }
}

fn pass_both_ways(client: TcpStream, server: TcpStream) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (Ok(client_too), Ok(server_too)) = (client.try_clone(), server.try_clone()) else { return };
    let back = thread::Builder::new().stack_size(128 << 10).spawn(move || pass(&server_too, &client_too));
    if back.is_ok() {
        pass(&client, &server);
    }
}

/// One direction; its end is passed on too, and a break ends both.
fn pass(mut from: &TcpStream, mut to: &TcpStream) {
    let end = match io::copy(&mut from, &mut to) {
        Ok(_) => Shutdown::Write,
        Err(_) => Shutdown::Both,
    };
    let _ = to.shutdown(end);
    if matches!(end, Shutdown::Both) {
        let _ = from.shutdown(end);
    }
}

type Clients = Arc<Mutex<HashMap<SocketAddr, Arc<UdpSocket>>>>;

/// Each client has a socket inside, so that answers find their way back.
fn pass_datagrams(socket: &Arc<UdpSocket>, port: u16) {
    let clients = Clients::default();
    let mut datagram = vec![0; DATAGRAM];
    loop {
        // An error is about an earlier datagram that nobody took (ICMP): the next one is another matter.
        let Ok((length, client)) = socket.recv_from(&mut datagram) else { continue };
        let known = clients.lock().unwrap_or_else(PoisonError::into_inner).get(&client).cloned();
        let inside = match known {
            Some(inside) => inside,
            None => match answered(socket, &clients, client, port) {
                Ok(inside) => inside,
                Err(_) => continue,
            },
        };
        // Datagrams may be lost anywhere.
        let _ = inside.send(&datagram[..length]);
    }
}

/// A new client's socket inside, and the thread that brings answers back.
fn answered(
    socket: &Arc<UdpSocket>,
    clients: &Clients,
    client: SocketAddr,
    port: u16,
) -> io::Result<Arc<UdpSocket>> {
    let inside = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    inside.connect((Ipv4Addr::LOCALHOST, port))?;
    inside.set_read_timeout(Some(UDP_PATIENCE))?;
    let inside = Arc::new(inside);
    clients.lock().unwrap_or_else(PoisonError::into_inner).insert(client, inside.clone());
    let (outside, clients, answers) = (socket.clone(), clients.clone(), inside.clone());
    thread::Builder::new().stack_size(128 << 10).spawn(move || {
        let mut datagram = vec![0; DATAGRAM];
        loop {
            match answers.recv(&mut datagram) {
                Ok(length) => _ = outside.send_to(&datagram[..length], client),
                Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                // The time is up.
                Err(_) => break,
            }
        }
        clients.lock().unwrap_or_else(PoisonError::into_inner).remove(&client);
    })?;
    Ok(inside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_as_docker_writes_them() {
        for (text, shown) in [
            ("8080:80", "0.0.0.0:8080->80/tcp"),
            ("80", "0.0.0.0:0->80/tcp"),
            ("127.0.0.1:5353:53/udp", "127.0.0.1:5353->53/udp"),
            ("127.0.0.1::53", "127.0.0.1:0->53/tcp"),
            ("[::1]:8080:80", "[::1]:8080->80/tcp"),
            ("8000-8001:80-81", "0.0.0.0:8000->80/tcp 0.0.0.0:8001->81/tcp"),
        ] {
            let ports: Vec<String> = Port::parse(text).unwrap().iter().map(Port::to_string).collect();
            assert_eq!(ports.join(" "), shown, "{text}");
        }
    }

    #[test]
    fn what_is_no_port_is_told() {
        for (text, why) in [
            ("0:80", "`0` is no port"),
            ("80:x", "`x` is no port"),
            ("65536", "`65536` is no port"),
            ("80/sctp", "neither"),
            ("1.2.3:80:80", "no address"),
            ("80-82:80-81", "length"),
            ("9-8:1-2", "empty"),
            ("", "no port"),
        ] {
            let error = Port::parse(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    #[expect(clippy::print_stderr, reason = "a test that cannot run says so")]
    fn datagrams_find_their_way_back() {
        let Ok(namespace) = NetworkNamespace::new().map(Arc::new) else {
            eprintln!(
                "SKIP datagrams_find_their_way_back: no right to make a network namespace (run it as root)"
            );
            return;
        };
        let inside = namespace.clone();
        let port = thread::spawn(move || {
            inside.join().unwrap();
            let server = UdpSocket::bind("127.0.0.1:0").unwrap();
            let port = server.local_addr().unwrap().port();
            // Each datagram goes back, with the port that it came from.
            thread::spawn(move || {
                let mut datagram = vec![0; DATAGRAM];
                while let Ok((length, from)) = server.recv_from(&mut datagram) {
                    let answer = [&datagram[..length], from.port().to_string().as_bytes()].concat();
                    server.send_to(&answer, from).unwrap();
                }
            });
            port
        });
        let address = Some(Ipv4Addr::LOCALHOST.into());
        let port = Port { address, host: 0, container: port.join().unwrap(), protocol: Protocol::Udp };
        let listeners = Listeners::bind(&[port]).unwrap();
        let host = listeners.ports[0].host;
        listeners.lead_into(&namespace).unwrap();
        let ask = |client: &UdpSocket, text: &str| {
            client.send_to(text.as_bytes(), ("127.0.0.1", host)).unwrap();
            let mut answer = [0; 64];
            let length = client.recv(&mut answer).unwrap();
            let answer = String::from_utf8(answer[..length].to_vec()).unwrap();
            answer.strip_prefix(text).unwrap().to_owned()
        };
        let clients = [(); 2].map(|()| {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            client
        });
        let ports = [ask(&clients[0], "a"), ask(&clients[1], "b"), ask(&clients[0], "c")];
        assert_eq!(ports[0], ports[2], "one client is one client inside");
        assert_ne!(ports[0], ports[1]);
    }

    #[test]
    fn a_port_in_use_is_told_with_a_remedy() {
        let taken = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = taken.local_addr().unwrap().port();
        let port =
            Port { address: Some(Ipv4Addr::LOCALHOST.into()), host, container: 80, protocol: Protocol::Tcp };
        let error = Listeners::bind(&[port]).unwrap_err();
        assert_eq!(error.to_string(), format!("could not listen on port {host}/tcp of this machine"));
        let rbuild_engine::BuildError::Failed(failure) = error else { panic!() };
        assert!(failure.help.unwrap().contains("-p 80"));
        let free = Listeners::bind(&[Port { host: 0, ..port }]).unwrap();
        assert_ne!(free.ports[0].host, 0);
    }
}
