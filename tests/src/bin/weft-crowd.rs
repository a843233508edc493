//! More clients than one test process has descriptors for: a program to be run inside a pod.
//!
//! `weft-crowd serve ADDRESS` echoes. `weft-crowd hold COUNT ADDRESS…` opens connections and keeps them, exchanging a
//! byte on each of them round after round. `weft-crowd churn COUNT PARALLEL ADDRESS` opens and closes them one after
//! the other.

use std::io;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;

/// Connections that are being opened at the same time, so that no queue of the kernel overflows.
const OPENING: usize = 128;

/// Beyond this a connection counts as lost.
const PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let run = || -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            ["serve", address] => runtime.block_on(serve(address.parse()?)),
            ["hold", count, ref addresses @ ..] => {
                let addresses = addresses.iter().map(|address| address.parse()).collect::<Result<Vec<_>, _>>()?;
                runtime.block_on(hold(count.parse()?, addresses))
            }
            ["churn", count, parallel, address] => {
                runtime.block_on(churn(count.parse()?, parallel.parse()?, address.parse()?))
            }
            _ => bail!("serve ADDRESS | hold COUNT ADDRESS… | churn COUNT PARALLEL ADDRESS"),
        }
    };
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("weft-crowd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn serve(address: SocketAddr) -> Result<()> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    let listener = socket.listen(8192)?;
    println!("serving on {address}");
    loop {
        let (mut stream, _) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                eprintln!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        tokio::spawn(async move {
            let mut buffer = [0; 64];
            while let Ok(length @ 1..) = stream.read(&mut buffer).await {
                if stream.write_all(&buffer[..length]).await.is_err() {
                    break;
                }
            }
        });
    }
}

async fn hold(count: usize, addresses: Vec<SocketAddr>) -> Result<()> {
    let start = Instant::now();
    let mut open = Vec::with_capacity(count);
    let mut opening = JoinSet::new();
    let mut failed = 0;
    for n in 0..count {
        if opening.len() >= OPENING {
            keep(opening.join_next().await, &mut open, &mut failed);
        }
        let address = *addresses.get(n % addresses.len().max(1)).context("no address")?;
        opening.spawn(async move {
            let mut stream = TcpStream::connect(address).await?;
            exchange(&mut stream).await?;
            Ok(stream)
        });
    }
    while let Some(joined) = opening.join_next().await {
        keep(Some(joined), &mut open, &mut failed);
    }
    println!("{} open, {failed} failed, after {:?}", open.len(), start.elapsed());
    for round in 1.. {
        let mut dead = 0;
        for stream in &mut open {
            dead += usize::from(exchange(stream).await.is_err());
        }
        println!("round {round}: {} alive, {dead} dead", open.len() - dead);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Ok(())
}

type Opened = Option<Result<io::Result<TcpStream>, tokio::task::JoinError>>;

fn keep(opened: Opened, open: &mut Vec<TcpStream>, failed: &mut usize) {
    match opened {
        Some(Ok(Ok(stream))) => open.push(stream),
        Some(Ok(Err(error))) => {
            // The first few say what is wrong; the rest is counted.
            if *failed < 3 {
                eprintln!("{error}");
            }
            *failed += 1;
        }
        Some(Err(_)) | None => *failed += 1,
    }
}

async fn exchange(stream: &mut TcpStream) -> io::Result<()> {
    let talk = async {
        stream.write_all(b"x").await?;
        let mut byte = [0];
        stream.read_exact(&mut byte).await?;
        Ok(())
    };
    tokio::time::timeout(PATIENCE, talk).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn churn(count: usize, parallel: usize, address: SocketAddr) -> Result<()> {
    let start = Instant::now();
    let mut clients = JoinSet::new();
    for n in 0..parallel {
        let share = count / parallel + usize::from(n < count % parallel);
        clients.spawn(async move {
            let mut failed = 0;
            for _ in 0..share {
                let once = async {
                    let mut stream = TcpStream::connect(address).await?;
                    // The server speaks first and closes first: the client's port is free again at once.
                    let mut answer = [0; 128];
                    let mut length = 0;
                    while let read @ 1.. = stream.read(&mut answer).await? {
                        length += read;
                    }
                    if length > 0 { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof)) }
                };
                let result = tokio::time::timeout(PATIENCE, once).await;
                let result = result.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
                if let Err(error) = result {
                    if failed < 3 {
                        eprintln!("{error}");
                    }
                    failed += 1;
                }
            }
            failed
        });
    }
    let failed: usize = clients.join_all().await.into_iter().sum();
    println!("{} done, {failed} failed, after {:?}", count - failed, start.elapsed());
    Ok(())
}
