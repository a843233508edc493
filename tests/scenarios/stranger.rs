//! A peer that is not Weft: rustls and the `h2` crate, with whatever certificate a scenario wants it to show.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use h2::client::SendRequest;
use h2::{RecvStream, SendStream};
use http::{Request, Response, StatusCode};
use rcgen::{CertificateParams, Issuer, KeyPair, SanType};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use time::OffsetDateTime;
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;
use weft_tests::Host;
use x509_parser::prelude::{FromDer as _, GeneralName, ParsedExtension, X509Certificate};

/// Nothing that a stranger does takes longer, unless it never ends.
const PATIENCE: Duration = Duration::from_secs(10);

/// A certificate chain and its key.
pub(crate) struct Credentials {
    chain: Vec<CertificateDer<'static>>,
    key: KeyPair,
}

impl Credentials {
    /// A certificate for these URIs from the authority whose files are in `ca`, valid from an hour ago for a day.
    pub(crate) fn issued(ca: &Path, uris: &[&str]) -> Result<Self> {
        let now = OffsetDateTime::now_utc();
        Self::issued_for(ca, uris, now - time::Duration::hours(1), now + time::Duration::hours(23))
    }

    /// The same with a given validity.
    pub(crate) fn issued_for(ca: &Path, uris: &[&str], from: OffsetDateTime, to: OffsetDateTime) -> Result<Self> {
        let read = |file: &str| fs::read_to_string(ca.join(file)).with_context(|| format!("reading {file}"));
        let issuer = Issuer::from_ca_cert_pem(&read("ca-cert.pem")?, KeyPair::from_pem(&read("ca-key.pem")?)?)?;
        let key = KeyPair::generate()?;
        let certificate = params(uris, from, to)?.signed_by(&key, &issuer)?;
        Ok(Self { chain: vec![certificate.der().clone()], key })
    }

    /// A certificate for these URIs that vouches for itself.
    pub(crate) fn self_signed(uris: &[&str]) -> Result<Self> {
        let now = OffsetDateTime::now_utc();
        let key = KeyPair::generate()?;
        let validity = (now - time::Duration::hours(1), now + time::Duration::hours(23));
        let certificate = params(uris, validity.0, validity.1)?.self_signed(&key)?;
        Ok(Self { chain: vec![certificate.der().clone()], key })
    }
}

fn params(uris: &[&str], from: OffsetDateTime, to: OffsetDateTime) -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.subject_alt_names =
        uris.iter().map(|uri| Ok(SanType::URI((*uri).try_into()?))).collect::<Result<_, rcgen::Error>>()?;
    params.not_before = from;
    params.not_after = to;
    Ok(params)
}

/// An HTTP/2 connection to an agent's port 15008.
pub(crate) struct Stranger {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
    /// The identities in the certificate that the agent showed.
    pub(crate) server_identities: Vec<String>,
}

/// A CONNECT that was answered 200.
pub(crate) struct Channel {
    pub(crate) answer: Response<()>,
    send: SendStream<Bytes>,
    receive: RecvStream,
}

impl Stranger {
    /// Connects from `host`, shows its certificate (or none), and waits until the agent has taken it.
    ///
    /// # Errors
    /// The agent does not take it, or TLS or HTTP/2 fails otherwise.
    pub(crate) fn connect(host: &Host, to: SocketAddr, credentials: Option<&Credentials>) -> Result<Self> {
        let tcp = host.connect(to).context("connecting")?;
        tcp.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let config = Arc::new(config(credentials)?);
        let (requests, server_identities) = runtime.block_on(within(async {
            let tcp = tokio::net::TcpStream::from_std(tcp)?;
            // No name is sent: the address says it all.
            let name = ServerName::IpAddress(to.ip().into());
            let tls = TlsConnector::from(config).connect(name, tcp).await.context("the TLS handshake")?;
            let leaf = tls.get_ref().1.peer_certificates().and_then(<[_]>::first).context("no certificate was shown")?;
            let identities = identities(leaf)?;
            let (requests, connection) =
                h2::client::Builder::new().handshake::<_, Bytes>(tls).await.context("the HTTP/2 preface")?;
            let (mut connection, mut pings) = {
                let mut connection = connection;
                let pings = connection.ping_pong().expect("this is the first caller");
                (connection, pings)
            };
            // In TLS 1.3 a client is finished before the server has judged its certificate: the first answer tells.
            tokio::select! {
                ended = &mut connection => { ended.context("the agent ended the connection")?; anyhow::bail!("the agent closed the connection") }
                pong = pings.ping(h2::Ping::opaque()) => { pong.context("the first ping")?; }
            }
            tokio::spawn(async move { let _ = connection.await; });
            Ok((requests, identities))
        }))?;
        Ok(Self { runtime, requests, server_identities })
    }

    /// Sends a request and returns the status of its answer.
    ///
    /// # Errors
    /// The stream or the connection was reset instead.
    pub(crate) fn status(&mut self, request: Request<()>) -> Result<StatusCode> {
        let Self { runtime, requests, .. } = self;
        runtime.block_on(within(async {
            let mut requests = requests.clone().ready().await?;
            let (answer, _body) = requests.send_request(request, false)?;
            Ok(answer.await?.status())
        }))
    }

    /// Sends a request that ends its stream, and returns the body of the answer.
    ///
    /// # Errors
    /// The stream or the connection was reset instead.
    pub(crate) fn whole(&mut self, request: Request<()>) -> Result<Vec<u8>> {
        let Self { runtime, requests, .. } = self;
        runtime.block_on(within(async {
            let mut requests = requests.clone().ready().await?;
            let (answer, _) = requests.send_request(request, true)?;
            let mut body = answer.await?.into_body();
            let mut whole = Vec::new();
            while let Some(piece) = body.data().await {
                whole.extend_from_slice(&piece?);
            }
            Ok(whole)
        }))
    }

    /// Sends CONNECT for an authority and returns the status of the answer.
    ///
    /// # Errors
    /// The stream or the connection was reset instead.
    pub(crate) fn connect_status(&mut self, authority: &str) -> Result<StatusCode> {
        self.status(connect_request(authority)?)
    }

    /// Opens a stream to an authority.
    ///
    /// # Errors
    /// The answer is not 200, or there was none.
    pub(crate) fn open(&mut self, request: Request<()>) -> Result<Channel> {
        let Self { runtime, requests, .. } = self;
        runtime.block_on(within(async {
            let mut requests = requests.clone().ready().await?;
            let (answer, send) = requests.send_request(request, false)?;
            let (parts, receive) = answer.await?.into_parts();
            anyhow::ensure!(parts.status == StatusCode::OK, "CONNECT was answered {}", parts.status);
            Ok(Channel { answer: Response::from_parts(parts, ()), send, receive })
        }))
    }

    /// Sends bytes on a stream and returns the next that come.
    ///
    /// # Errors
    /// The stream was reset, or ended.
    pub(crate) fn exchange(&self, channel: &mut Channel, bytes: &'static [u8]) -> Result<Bytes> {
        self.runtime.block_on(within(async {
            channel.send.send_data(Bytes::from_static(bytes), false)?;
            let data = channel.receive.data().await.context("the stream ended")??;
            channel.receive.flow_control().release_capacity(data.len())?;
            Ok(data)
        }))
    }

    /// Ends the sending side of a stream and returns what comes to its end.
    ///
    /// # Errors
    /// The stream was reset.
    pub(crate) fn finish(&self, mut channel: Channel) -> Result<Vec<u8>> {
        self.runtime.block_on(within(async {
            channel.send.send_data(Bytes::new(), true)?;
            let mut rest = Vec::new();
            while let Some(data) = channel.receive.data().await {
                let data = data?;
                channel.receive.flow_control().release_capacity(data.len())?;
                rest.extend_from_slice(&data);
            }
            Ok(rest)
        }))
    }

    /// Waits until the agent takes no new streams on this connection.
    ///
    /// # Errors
    /// It still does after ten seconds.
    pub(crate) fn wait_until_closed(&mut self) -> Result<()> {
        let Self { runtime, requests, .. } = self;
        runtime.block_on(within(async {
            while requests.clone().ready().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }))
    }
}

/// A CONNECT request (RFC 9113, section 8.5).
pub(crate) fn connect_request(authority: &str) -> Result<Request<()>> {
    Ok(Request::builder().method("CONNECT").uri(authority).body(())?)
}

async fn within<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(PATIENCE, work).await.context("the agent did not answer")?
}

fn config(credentials: Option<&Credentials>) -> Result<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(Anyone(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match credentials {
        Some(Credentials { chain, key }) => {
            let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
            builder.with_client_auth_cert(chain.clone(), key)?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_sni = false;
    Ok(config)
}

/// The URIs in a certificate.
pub(crate) fn identities(certificate: &[u8]) -> Result<Vec<String>> {
    let (_, certificate) = X509Certificate::from_der(certificate).context("parsing the certificate")?;
    let names = certificate.extensions().iter().filter_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => Some(&names.general_names),
        _ => None,
    });
    let uris = names.flatten().filter_map(|name| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    });
    Ok(uris.collect())
}

/// Takes any server, and leaves it to the scenario to look at its certificate.
#[derive(Debug)]
struct Anyone(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Err(rustls::Error::General("TLS 1.2 is not spoken here".into()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
