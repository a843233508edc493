//! Servers that run in a pod and remember what came to them.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::host::Host;
use crate::pattern;
use crate::wait::eventually;

/// What a server does with each connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    /// Sends back what it receives, and a FIN after the client's.
    Echo,
    /// Sends `PEER LOCAL\n`, the connection's addresses as the application sees them, and closes.
    Greet,
    /// Reads to the end, checks that it is the stream of [`pattern`], and answers `N ok\n` or `N wrong\n`.
    Verify,
    /// Sends so many bytes of the stream of [`pattern`] and closes.
    Send(u64),
    /// Reads nothing until [`Server::release`]; then as [`Verify`](Self::Verify).
    Stall,
    /// Answers the first bytes with a reset.
    Reset,
    /// Sends `bye\n` and a FIN at once, and goes on reading to the end.
    HalfClose,
}

/// What a server knows about one connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The client, as `accept` gave it.
    pub peer: SocketAddr,
    /// The address that was dialled, as `getsockname` gives it.
    pub local: SocketAddr,
    /// Bytes received so far.
    pub received: u64,
    /// How the client's side ended, once it has.
    pub end: Option<End>,
}

/// How a client's side of a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With a FIN.
    Fin,
    /// With a reset, or another error.
    Error(io::ErrorKind),
}

/// A running server; dropping it closes its listener and all its connections.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    control: watch::Sender<Control>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Control {
    Stalled,
    Released,
    Stopped,
}

impl Server {
    /// Listens in `host` on `address`; port 0 picks one.
    ///
    /// # Errors
    /// What `bind` says.
    pub fn start(host: &Host, address: SocketAddr, behaviour: Behaviour) -> Result<Self> {
        let listener = host.enter(|| listen(address)).with_context(|| format!("listening on {address}"))?;
        Self::serve(listener, behaviour)
    }

    /// Serves on a listener that exists already.
    ///
    /// # Errors
    /// The listener cannot be served.
    pub fn serve(listener: std::net::TcpListener, behaviour: Behaviour) -> Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let (control, controlled) = watch::channel(Control::Stalled);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let kept = Arc::clone(&seen);
        let thread = std::thread::Builder::new().name(format!("server {address}")).spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::from_std(listener).expect("the runtime takes a non-blocking listener");
                let mut stop = controlled.clone();
                tokio::select! {
                    biased;
                    _ = stop.wait_for(|control| *control == Control::Stopped) => {}
                    () = accept(listener, behaviour, kept, controlled) => {}
                }
            });
        })?;
        Ok(Self { address, seen, control, thread: Some(thread) })
    }

    /// The address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The connections that have come so far, in order.
    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no connection panics").clone()
    }

    /// How many connections have come so far.
    pub fn count(&self) -> usize {
        self.seen.lock().expect("no connection panics").len()
    }

    /// Bytes received on all connections so far.
    pub fn received(&self) -> u64 {
        self.seen.lock().expect("no connection panics").iter().map(|seen| seen.received).sum()
    }

    /// Waits until a connection's client side has ended and returns how.
    ///
    /// # Errors
    /// There is no such connection, or it has not ended in 20 seconds.
    pub fn wait_for_end(&self, connection: usize) -> Result<End> {
        eventually("the server sees the end of the connection", || {
            Ok(self.seen().get(connection).and_then(|seen| seen.end))
        })
    }

    /// Lets stalled connections go on.
    pub fn release(&self) {
        self.control.send_replace(Control::Released);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.control.send_replace(Control::Stopped);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A listener with a queue long enough for a burst of thousands; one on `[::]` takes IPv4 as well.
fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(4096)?;
    Ok(socket.into())
}

async fn accept(
    listener: TcpListener,
    behaviour: Behaviour,
    seen: Arc<Mutex<Vec<Seen>>>,
    control: watch::Receiver<Control>,
) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, or the connection went away in the queue: neither is cured by trying at once.
            tokio::time::sleep(Duration::from_millis(5)).await;
            continue;
        };
        let local = stream.local_addr().unwrap_or(peer);
        let index = {
            let mut seen = seen.lock().expect("no connection panics");
            seen.push(Seen { peer, local, received: 0, end: None });
            seen.len() - 1
        };
        let record = Record { seen: Arc::clone(&seen), index };
        let control = control.clone();
        tokio::spawn(async move {
            let ended = serve(stream, behaviour, &record, control).await;
            if let Err(error) = ended {
                record.note(|seen| seen.end = seen.end.or(Some(End::Error(error.kind()))));
            }
        });
    }
}

struct Record {
    seen: Arc<Mutex<Vec<Seen>>>,
    index: usize,
}

impl Record {
    fn note(&self, note: impl FnOnce(&mut Seen)) {
        note(&mut self.seen.lock().expect("no connection panics")[self.index]);
    }

    fn copy(&self) -> Seen {
        self.seen.lock().expect("no connection panics")[self.index]
    }

    /// Reads once and notes what came; 0 at the end.
    async fn read(&self, stream: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        let length = stream.read(buffer).await?;
        self.note(|seen| {
            seen.received += length as u64;
            if length == 0 {
                seen.end = Some(End::Fin);
            }
        });
        Ok(length)
    }
}

async fn serve(
    mut stream: TcpStream,
    behaviour: Behaviour,
    record: &Record,
    mut control: watch::Receiver<Control>,
) -> io::Result<()> {
    // Small, since an idle connection of a load test keeps it; the bulk servers below take a larger one.
    let mut small = [0; 2048];
    match behaviour {
        Behaviour::Echo => {
            stream.set_nodelay(true)?;
            loop {
                let length = record.read(&mut stream, &mut small).await?;
                if length == 0 {
                    return stream.shutdown().await;
                }
                stream.write_all(&small[..length]).await?;
            }
        }
        Behaviour::Greet => {
            let Seen { peer, local, .. } = record.copy();
            stream.write_all(format!("{peer} {local}\n").as_bytes()).await?;
            stream.shutdown().await
        }
        Behaviour::Verify => verify(stream, record).await,
        Behaviour::Send(total) => {
            let mut buffer = vec![0; 128 * 1024];
            let mut sent = 0;
            while sent < total {
                let length = (total - sent).min(buffer.len() as u64) as usize;
                pattern::fill(sent, &mut buffer[..length]);
                stream.write_all(&buffer[..length]).await?;
                sent += length as u64;
            }
            stream.shutdown().await
        }
        Behaviour::Stall => {
            let _ = control.wait_for(|control| *control != Control::Stalled).await;
            verify(stream, record).await
        }
        Behaviour::Reset => {
            record.read(&mut stream, &mut small).await?;
            // A linger time of zero makes close send a reset.
            stream.set_zero_linger()
        }
        Behaviour::HalfClose => {
            stream.write_all(b"bye\n").await?;
            stream.shutdown().await?;
            while record.read(&mut stream, &mut small).await? > 0 {}
            Ok(())
        }
    }
}

async fn verify(mut stream: TcpStream, record: &Record) -> io::Result<()> {
    let mut buffer = vec![0; 128 * 1024];
    let (mut total, mut is_right) = (0, true);
    loop {
        let length = record.read(&mut stream, &mut buffer).await?;
        if length == 0 {
            break;
        }
        is_right &= pattern::is_at(total, &buffer[..length]);
        total += length as u64;
    }
    let verdict = if is_right { "ok" } else { "wrong" };
    stream.write_all(format!("{total} {verdict}\n").as_bytes()).await?;
    stream.shutdown().await
}
