//! Whether a webhook comes from whom it says: the three schemes of the forges, compared in constant time. Pure.

use aws_lc_rs::{constant_time, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use caisson_model::time::Timestamp;

use crate::triggers::settings::Forge;

/// How far the clock of a forge may differ, and how long a signed webhook may be on its way.
const WINDOW_SECONDS: u64 = 300;

/// Why a webhook is not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbelieved {
    /// It is not signed.
    #[error("it has no {0} header")]
    Unsigned(&'static str),
    /// It is signed by somebody else, or was changed.
    #[error("its signature does not fit")]
    Wrong,
    /// It was signed too long ago, or in the future.
    #[error("it was not signed within the last five minutes")]
    Stale,
}

/// Whether `body` was signed with `secret`. `header` gives headers by name in lower case.
///
/// # Errors
/// [`Unbelieved`].
pub fn verify<'h>(
    forge: Forge,
    secret: &[u8],
    header: impl Fn(&str) -> Option<&'h str>,
    body: &[u8],
    now: Timestamp,
) -> Result<(), Unbelieved> {
    match forge {
        Forge::Github => {
            let text = header("x-hub-signature-256").ok_or(Unbelieved::Unsigned("X-Hub-Signature-256"))?;
            digits(secret, text.strip_prefix("sha256=").unwrap_or_default(), body)
        }
        Forge::Gitea => digits(secret, header("x-gitea-signature").ok_or(Unbelieved::Unsigned("X-Gitea-Signature"))?, body),
        Forge::Forgejo => {
            let text = header("x-forgejo-signature").or_else(|| header("x-gitea-signature"));
            digits(secret, text.ok_or(Unbelieved::Unsigned("X-Forgejo-Signature"))?, body)
        }
        Forge::Gitlab => match header("webhook-signature") {
            Some(signatures) => standard(secret, signatures, header("webhook-id"), header("webhook-timestamp"), body, now),
            None => {
                let token = header("x-gitlab-token").ok_or(Unbelieved::Unsigned("X-Gitlab-Token"))?;
                constant_time::verify_slices_are_equal(token.as_bytes(), secret).map_err(|_| Unbelieved::Wrong)
            }
        },
    }
}

fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

/// HMAC-SHA-256 over the body, in hexadecimal digits.
fn digits(secret: &[u8], text: &str, body: &[u8]) -> Result<(), Unbelieved> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return Err(Unbelieved::Wrong);
    }
    let digit = |byte: u8| char::from(byte).to_digit(16).map(|digit| digit as u8);
    let bytes: Option<Vec<u8>> = text.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect();
    hmac::verify(&key(secret), body, &bytes.ok_or(Unbelieved::Wrong)?).map_err(|_| Unbelieved::Wrong)
}

/// The scheme of standardwebhooks.com, which GitLab's signing tokens (`whsec_...`) use: id, time and body are signed together.
fn standard(secret: &[u8], signatures: &str, id: Option<&str>, at: Option<&str>, body: &[u8], now: Timestamp) -> Result<(), Unbelieved> {
    let id = id.ok_or(Unbelieved::Unsigned("webhook-id"))?;
    let at = at.ok_or(Unbelieved::Unsigned("webhook-timestamp"))?;
    let seconds: u64 = at.parse().map_err(|_| Unbelieved::Wrong)?;
    let decoded = secret.strip_prefix(b"whsec_").and_then(|text| BASE64.decode(text).ok());
    let key = key(decoded.as_deref().unwrap_or(secret));
    let signed = [id.as_bytes(), b".", at.as_bytes(), b".", body].concat();
    let fits = signatures.split(' ').filter_map(|one| BASE64.decode(one.strip_prefix("v1,")?).ok());
    let fits = fits.fold(false, |fits, signature| hmac::verify(&key, &signed, &signature).is_ok() | fits);
    if !fits {
        return Err(Unbelieved::Wrong);
    }
    if seconds.abs_diff(now.0 / 1000) > WINDOW_SECONDS { Err(Unbelieved::Stale) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const SECRET: &[u8] = b"It's a Secret to Everybody";
    const BODY: &[u8] = b"Hello, World!";
    // The example of GitHub's documentation, and so an independent computation.
    const SIGNATURE: &str = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";

    fn check(forge: Forge, headers: &[(&str, &str)], secret: &[u8], body: &[u8]) -> Result<(), Unbelieved> {
        let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
        verify(forge, secret, header, body, Timestamp(1_700_000_000_000))
    }

    #[test]
    fn each_forge_has_its_scheme() {
        let prefixed = format!("sha256={SIGNATURE}");
        let table: [(Forge, &str, &str); 5] = [
            (Forge::Github, "x-hub-signature-256", &prefixed),
            (Forge::Gitea, "x-gitea-signature", SIGNATURE),
            (Forge::Forgejo, "x-forgejo-signature", SIGNATURE),
            (Forge::Forgejo, "x-gitea-signature", SIGNATURE),
            (Forge::Gitlab, "x-gitlab-token", "It's a Secret to Everybody"),
        ];
        for (forge, name, value) in table {
            assert_eq!(check(forge, &[(name, value)], SECRET, BODY), Ok(()), "{name}");
            assert_eq!(check(forge, &[(name, value)], b"another secret", BODY), Err(Unbelieved::Wrong), "{name}");
            assert!(matches!(check(forge, &[], SECRET, BODY), Err(Unbelieved::Unsigned(_))), "{name}");
            if forge != Forge::Gitlab {
                assert_eq!(check(forge, &[(name, value)], SECRET, b"Hello, World?"), Err(Unbelieved::Wrong), "{name}");
                assert_eq!(check(forge, &[(name, &value[..value.len() - 2])], SECRET, BODY), Err(Unbelieved::Wrong), "{name}");
            }
        }
        // GitHub's old scheme does not count, and neither does one forge's header at another.
        assert!(check(Forge::Github, &[("x-hub-signature", "sha1=00")], SECRET, BODY).is_err());
        assert!(check(Forge::Gitea, &[("x-hub-signature-256", &prefixed)], SECRET, BODY).is_err());
    }

    #[test]
    fn a_signature_over_a_time_does_not_last() {
        let secret = format!("whsec_{}", BASE64.encode(SECRET));
        let sign = |id: &str, at: &str| {
            let signed = [id.as_bytes(), b".", at.as_bytes(), b".", BODY].concat();
            format!("v1,{}", BASE64.encode(hmac::sign(&key(SECRET), &signed)))
        };
        let (now, old) = ("1700000100", "1699999000");
        fn headers<'t>(at: &'t str, signature: &'t str) -> [(&'static str, &'t str); 3] {
            [("webhook-id", "m1"), ("webhook-timestamp", at), ("webhook-signature", signature)]
        }
        let check = |headers: &[(&str, &str)]| check(Forge::Gitlab, headers, secret.as_bytes(), BODY);
        let good = format!("v1,AAAA {}", sign("m1", now));
        assert_eq!(check(&headers(now, &good)), Ok(()));
        assert_eq!(check(&headers(old, &sign("m1", old))), Err(Unbelieved::Stale));
        assert_eq!(check(&headers(now, &sign("m1", old))), Err(Unbelieved::Wrong));
        assert_eq!(check(&headers(now, &sign("m2", now))), Err(Unbelieved::Wrong));
    }
}
