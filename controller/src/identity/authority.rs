//! The private authority: one key that signs the controller's own certificate and those of agents. Nobody else believes it,
//! and it believes nobody else. Blocks where it touches files.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use caisson_model::id::AgentName;
use caisson_model::time::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PublicKeyData, SanType, SerialNumber,
};
use rustls::pki_types::CertificateSigningRequestDer;
use time::OffsetDateTime;

use crate::identity::entry::Issued;
use crate::identity::token::{NoChance, chance, hex, sha256};

/// How long the authority's own certificate counts.
const AUTHORITY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// How long the controller's certificate counts; made anew at a start when less than a third is left.
const SERVER: Duration = Duration::from_secs(90 * 24 * 3600);
/// How far the clock of another machine may be behind.
const SKEW: Duration = Duration::from_secs(60);

/// The authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// There is one already.
    #[error("make an authority in {0}: there is one already, and replacing it would lock every agent out")]
    Exists(PathBuf),
    /// There is none.
    #[error("use the authority in {0}: there is none")]
    Missing(PathBuf),
    /// A file cannot be read or written.
    #[error("{act} {}", path.display())]
    File {
        /// What was tried.
        act: &'static str,
        /// With which file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A private key can be read by others.
    #[error("use the key {0}: others than its owner can read it; `chmod 600` it, and make a new authority if somebody did")]
    Open(PathBuf),
    /// A certificate cannot be made or read.
    #[error("{0}")]
    Certificate(&'static str, #[source] rcgen::Error),
    /// There is no randomness.
    #[error("make a certificate")]
    Chance(#[from] NoChance),
}

/// A certificate request cannot be signed.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// It is not one, or not signed with its own key.
    #[error("the certificate request is not usable")]
    Request(#[source] rcgen::Error),
    /// The authority failed.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

/// The authority.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    directory: PathBuf,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("directory", &self.directory).finish_non_exhaustive()
    }
}

/// The controller's own certificate chain, DER, with its key as PEM.
#[derive(Clone)]
pub struct ServerCertificate {
    /// The certificate, then the authority's.
    pub chain: Vec<Vec<u8>>,
    /// The key.
    pub key: String,
}

impl std::fmt::Debug for ServerCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ServerCertificate")
    }
}

fn date(at: Timestamp) -> OffsetDateTime {
    let seconds = i64::try_from(at.0 / 1000).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

fn before(at: Timestamp) -> Timestamp {
    Timestamp(at.0.saturating_sub(u64::try_from(SKEW.as_millis()).unwrap_or_default()))
}

fn named(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::OrganizationName, "caisson");
    distinguished.push(DnType::CommonName, name);
    distinguished
}

/// A random serial number; the first bit is clear, so that it is a positive number of 16 bytes.
fn serial() -> Result<[u8; 16], NoChance> {
    let mut bytes = chance::<16>()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(bytes)
}

fn write(path: &Path, text: &str, mode: u32) -> Result<(), AuthorityError> {
    let failed = |source| AuthorityError::File { act: "write", path: path.to_owned(), source };
    let part = path.with_extension("part");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&part).map_err(failed)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed)?;
    fs::rename(&part, path).map_err(failed)?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

fn read_key(path: &Path) -> Result<String, AuthorityError> {
    use std::os::unix::fs::PermissionsExt;
    let failed = |source| AuthorityError::File { act: "read", path: path.to_owned(), source };
    let mode = fs::metadata(path).map_err(failed)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(AuthorityError::Open(path.to_owned()));
    }
    fs::read_to_string(path).map_err(failed)
}

impl Authority {
    /// Makes one in `directory`, which is made if need be, with a certificate for the controller.
    ///
    /// # Errors
    /// [`AuthorityError`]; [`AuthorityError::Exists`] when there is one.
    pub fn create(directory: &Path, now: Timestamp) -> Result<Authority, AuthorityError> {
        let failed = |source| AuthorityError::File { act: "make", path: directory.to_owned(), source };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
        let path = directory.join("authority.pem");
        if path.exists() {
            return Err(AuthorityError::Exists(directory.to_owned()));
        }
        let act = |source| AuthorityError::Certificate("make the authority's certificate", source);
        let key = KeyPair::generate().map_err(act)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("caisson authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        params.not_before = date(before(now));
        params.not_after = date(now.after(AUTHORITY));
        let certificate = params.self_signed(&key).map_err(act)?;
        // The key first: a certificate without its key would look like an authority.
        write(&directory.join("authority.key"), &key.serialize_pem(), 0o600)?;
        write(&path, &certificate.pem(), 0o644)?;
        Authority::open(directory)
    }

    /// Whether there is one.
    pub fn exists(directory: &Path) -> bool {
        directory.join("authority.pem").exists()
    }

    /// Opens the one in `directory`.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn open(directory: &Path) -> Result<Authority, AuthorityError> {
        if !Authority::exists(directory) {
            return Err(AuthorityError::Missing(directory.to_owned()));
        }
        let path = directory.join("authority.pem");
        let failed = |source| AuthorityError::File { act: "read", path: path.clone(), source };
        let pem = fs::read_to_string(&path).map_err(failed)?;
        let act = |source| AuthorityError::Certificate("read the authority's certificate", source);
        let key = KeyPair::from_pem(&read_key(&directory.join("authority.key"))?).map_err(act)?;
        use rustls::pki_types::pem::PemObject;
        let certificate = rustls::pki_types::CertificateDer::from_pem_slice(pem.as_bytes())
            .map_err(|error| failed(io::Error::other(error.to_string())))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).map_err(act)?;
        Ok(Authority { issuer, certificate: certificate.to_vec(), directory: directory.to_owned() })
    }

    /// Its certificate, DER.
    pub fn certificate(&self) -> &[u8] {
        &self.certificate
    }

    /// The file of its certificate, for those who are to believe it.
    pub fn file(&self) -> PathBuf {
        self.directory.join("authority.pem")
    }

    /// The digest of its certificate, which tokens carry.
    pub fn pin(&self) -> [u8; 32] {
        sha256(&self.certificate)
    }

    /// The controller's certificate for these names and addresses: the one on the disk, or a new one when that lacks a name,
    /// or has less than a third of its life left. Names that it had stay in it.
    ///
    /// # Errors
    /// [`AuthorityError`].
    pub fn server(&self, names: &[String], now: Timestamp) -> Result<ServerCertificate, AuthorityError> {
        let (path, key_path, names_path) =
            (self.directory.join("server.pem"), self.directory.join("server.key"), self.directory.join("server.names"));
        let known = fs::read_to_string(&names_path).unwrap_or_default();
        let mut lines = known.lines();
        let ends: u64 = lines.next().and_then(|line| line.parse().ok()).unwrap_or_default();
        let mut all: Vec<String> = lines.map(str::to_owned).collect();
        let complete = names.iter().all(|name| all.contains(name));
        let third = u64::try_from(SERVER.as_millis()).unwrap_or_default() / 3;
        if complete && ends > now.0 + third && path.exists() {
            use rustls::pki_types::pem::PemObject;
            let failed = |source| AuthorityError::File { act: "read", path: path.clone(), source };
            let certificate =
                rustls::pki_types::CertificateDer::from_pem_file(&path).map_err(|error| failed(io::Error::other(error.to_string())))?;
            return Ok(ServerCertificate { chain: vec![certificate.to_vec(), self.certificate.clone()], key: read_key(&key_path)? });
        }
        all.extend(names.iter().filter(|name| !known.lines().skip(1).any(|line| line == name.as_str())).cloned());
        all.dedup();
        let act = |source| AuthorityError::Certificate("make the controller's certificate", source);
        let key = KeyPair::generate().map_err(act)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named("caisson controller");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&serial()?));
        params.not_before = date(before(now));
        params.not_after = date(now.after(SERVER));
        params.subject_alt_names = all.iter().map(|name| alternative(name).map_err(act)).collect::<Result<_, _>>()?;
        let certificate = params.signed_by(&key, &self.issuer).map_err(act)?;
        write(&key_path, &key.serialize_pem(), 0o600)?;
        write(&path, &certificate.pem(), 0o644)?;
        write(&names_path, &format!("{}\n{}\n", now.after(SERVER).0, all.join("\n")), 0o644)?;
        Ok(ServerCertificate { chain: vec![certificate.der().to_vec(), self.certificate.clone()], key: key.serialize_pem() })
    }

    /// Signs an agent's request. Of the request only the key counts: whatever names it holds are ignored.
    ///
    /// # Errors
    /// [`SignError`].
    pub fn sign(
        &self,
        request: &[u8],
        agent: &AgentName,
        pool: &str,
        lifetime: Duration,
        now: Timestamp,
    ) -> Result<(Vec<u8>, Issued), SignError> {
        let act = |source| AuthorityError::Certificate("make an agent's certificate", source);
        // Its signature is checked there, which proves that the caller has the key.
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)).map_err(SignError::Request)?;
        let bytes = serial().map_err(AuthorityError::Chance)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = named(&agent.0);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(SerialNumber::from_slice(&bytes));
        params.not_before = date(before(now));
        let ends = now.after(lifetime);
        params.not_after = date(ends);
        let uri = format!("spiffe://caisson/pool/{pool}/agent/{agent}");
        params.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(act)?)];
        let certificate = params.signed_by(&request.public_key, &self.issuer).map_err(act)?;
        let key = hex(&sha256(request.public_key.der_bytes()));
        Ok((certificate.der().to_vec(), Issued { serial: hex(&bytes), key, begins: now, ends }))
    }

    /// The digest of the key that a request is for.
    ///
    /// # Errors
    /// [`SignError::Request`].
    pub fn key_of(request: &[u8]) -> Result<String, SignError> {
        let request =
            CertificateSigningRequestParams::from_der(&CertificateSigningRequestDer::from(request)).map_err(SignError::Request)?;
        Ok(hex(&sha256(request.public_key.der_bytes())))
    }
}

fn alternative(name: &str) -> Result<SanType, rcgen::Error> {
    match name.parse::<IpAddr>() {
        Ok(address) => Ok(SanType::IpAddress(address)),
        Err(_) => Ok(SanType::DnsName(name.to_owned().try_into()?)),
    }
}
