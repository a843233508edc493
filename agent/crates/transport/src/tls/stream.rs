//! TLS over a stream, for those who own streams rather than buffers. The judgement of the peer is the same.

use std::io;
use std::time::SystemTime;

use rustls::CommonState;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use weft_model::Identity;

use super::error::TlsError;
use super::handshake::nameless;
use super::identity::{ALPN, TlsIdentity};
use super::leaf::Leaf;

/// An established session as a stream.
#[derive(Debug)]
pub struct Secured<Stream> {
    /// What is written here is protected, and what is read was.
    pub stream: Stream,
    /// The peer's identity, from its verified certificate.
    pub peer: Identity,
    /// When the peer's certificate expires. TLS does not look at it again; whoever keeps a session beyond it should.
    pub peer_not_after: SystemTime,
}

impl TlsIdentity {
    /// A server's handshake. Without a time-out of its own.
    ///
    /// # Errors
    /// When our certificate has expired, or the client has no good one.
    pub async fn accept_stream<IO>(&self, io: IO) -> Result<Secured<server::TlsStream<IO>>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let stream = TlsAcceptor::from(self.server_config()?).accept(io).await.map_err(read)?;
        let (peer, peer_not_after) = peer(stream.get_ref().1)?;
        Ok(Secured { stream, peer, peer_not_after })
    }

    /// A client's handshake. The server must prove one of `expected`, as in [`TlsIdentity::connect`]. Without a time-out
    /// of its own.
    ///
    /// # Errors
    /// When nothing is expected, our certificate has expired, or the server is another.
    pub async fn connect_stream<IO>(
        &self,
        io: IO,
        expected: Vec<Identity>,
    ) -> Result<Secured<client::TlsStream<IO>>, TlsError>
    where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let connector = TlsConnector::from(self.client_config(expected)?);
        let stream = connector.connect(nameless(), io).await.map_err(read)?;
        let (peer, peer_not_after) = peer(stream.get_ref().1)?;
        Ok(Secured { stream, peer, peer_not_after })
    }
}

/// Who the verified peer is. That it speaks HTTP/2 is part of who it is: rustls lets a peer without ALPN in.
fn peer(connection: &CommonState) -> Result<(Identity, SystemTime), TlsError> {
    let certificate = connection.peer_certificates().and_then(<[_]>::first).ok_or(TlsError::NoCertificate)?;
    let leaf = Leaf::read(certificate).map_err(TlsError::Certificate)?;
    match connection.alpn_protocol() {
        Some(ALPN) => Ok((leaf.identity, leaf.not_after)),
        _ => Err(TlsError::NoApplicationProtocol),
    }
}

/// What rustls said comes out as it was; the rest is the network's.
fn read(error: io::Error) -> TlsError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(said) => TlsError::from_handshake(said.clone()),
        None => TlsError::Network(error.kind()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::testing::{TestRoot, identity};

    #[tokio::test]
    async fn both_ends_know_each_other_and_bytes_pass() {
        let root = TestRoot::new("root");
        let (client, server) = (root.tls("client"), root.tls("server"));
        let (near, far) = tokio::io::duplex(4096);
        let serving = async {
            let mut secured = server.accept_stream(far).await.expect("a client of the mesh");
            assert_eq!(secured.peer, identity("client"));
            let mut said = [0; 5];
            secured.stream.read_exact(&mut said).await.expect("the client speaks");
            secured.stream.write_all(&said).await.expect("the client listens");
            secured.stream.flush().await.expect("the client listens");
        };
        let asking = async {
            let mut secured = client.connect_stream(near, vec![identity("server")]).await.expect("the server");
            assert_eq!(secured.peer, identity("server"));
            secured.stream.write_all(b"hello").await.expect("the server listens");
            secured.stream.flush().await.expect("the server listens");
            let mut said = [0; 5];
            secured.stream.read_exact(&mut said).await.expect("the server speaks");
            assert_eq!(&said, b"hello");
        };
        tokio::join!(serving, asking);
    }

    #[tokio::test]
    async fn a_server_of_another_name_and_a_client_of_another_root_are_refused() {
        let root = TestRoot::new("root");
        let (near, far) = tokio::io::duplex(4096);
        let (client, server) = (root.tls("client"), root.tls("server"));
        let (served, asked) =
            tokio::join!(server.accept_stream(far), client.connect_stream(near, vec![identity("other")]));
        assert!(matches!(asked, Err(TlsError::Certificate(_))), "{asked:?}");
        assert!(matches!(served, Err(TlsError::PeerAlert(_))), "{served:?}");

        let (near, far) = tokio::io::duplex(4096);
        let stranger = TestRoot::new("another").leaf_of(&identity("client")).tls(&identity("client"), root.bundle());
        let (served, _) =
            tokio::join!(server.accept_stream(far), stranger.connect_stream(near, vec![identity("server")]));
        assert!(matches!(served, Err(TlsError::Certificate(_))), "{served:?}");
    }
}
