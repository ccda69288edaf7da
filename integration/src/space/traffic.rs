//! Traffic between two kernels.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Space;

const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a TCP transfer in each direction.
const TRANSFER: usize = 1 << 20;

/// Bytes that tell where they belong.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| u8::try_from((at * 31 + at / 251) % 256).unwrap_or(0)).collect()
}

/// Asks from one namespace for answers of an address in another. Every answer must come.
pub fn ping(from: &Space, to: &str, bytes: usize) -> Result<()> {
    let said = from.run(&format!("/bin/busybox ping -c 3 -W 5 -s {bytes} {to}"))?;
    ensure!(said.contains("3 packets received"), "{said}");
    Ok(())
}

/// A transfer by TCP to an address in another namespace and back, every byte of it looked at.
pub fn tcp(from: &Space, to: &Space, address: &str) -> Result<()> {
    let address: SocketAddr = address.parse()?;
    let listener = to.inside(move || TcpListener::bind(address).context("listen"))?;
    let server = to.start(move || {
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got)?;
        stream.write_all(&got)?;
        Ok(got)
    });
    let back = from.inside(move || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).context("connect")?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&pattern(TRANSFER))?;
        stream.shutdown(Shutdown::Write)?;
        let mut got = Vec::new();
        stream.read_to_end(&mut got)?;
        Ok(got)
    })?;
    let there = server.finish()?;
    let sent = pattern(TRANSFER);
    ensure!(there == sent, "{} of {TRANSFER} bytes arrived, or others", there.len());
    ensure!(back == sent, "{} of {TRANSFER} bytes came back, or others", back.len());
    Ok(())
}

/// Datagrams of this size to an address in another namespace and back, one for each of so many flows. Says how many came
/// back.
pub fn udp(from: &Space, to: &Space, address: &str, bytes: usize, flows: usize) -> Result<usize> {
    let address: SocketAddr = address.parse()?;
    let server = to.inside(move || UdpSocket::bind(address).context("bind"))?;
    server.set_read_timeout(Some(PATIENCE))?;
    let echo = to.start(move || {
        let mut buffer = vec![0; 65_536];
        loop {
            let (n, client) = server.recv_from(&mut buffer)?;
            if n == 0 {
                return Ok(());
            }
            server.send_to(buffer.get(..n).unwrap_or(&[]), client)?;
        }
    });
    let came = from.inside(move || {
        let mut buffer = vec![0; 65_536];
        let sent = pattern(bytes);
        let mut came = 0;
        for _ in 0..flows {
            let socket = UdpSocket::bind("0.0.0.0:0")?;
            socket.set_read_timeout(Some(PATIENCE))?;
            socket.send_to(&sent, address)?;
            let n = socket.recv(&mut buffer).context("no answer")?;
            ensure!(buffer.get(..n) == Some(&sent), "other bytes came back");
            came += 1;
        }
        Ok(came)
    });
    // Also when nothing came: the echo ends with an empty datagram, from its own side.
    to.inside(move || Ok(UdpSocket::bind("0.0.0.0:0")?.send_to(&[], address)?))?;
    let echoed = echo.finish();
    let came = came?;
    echoed?;
    Ok(came)
}
