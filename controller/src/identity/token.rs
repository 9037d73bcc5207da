//! The text of a token: `caisson-join.ID.SECRET.PIN` or `caisson-api.ID.SECRET.PIN`. The pin is the SHA-256 digest of the
//! authority's certificate, so that whoever has a token knows which controller to believe at the first contact.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as BASE64;
use caisson_proto::fleet::TokenKind;
use sha2::{Digest as _, Sha256};

/// A token that was taken apart. Never shown.
#[derive(Clone)]
pub struct Token {
    /// What it is for.
    pub kind: TokenKind,
    /// Its public part.
    pub id: String,
    secret: [u8; 32],
    /// The digest of the authority's certificate.
    pub pin: [u8; 32],
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("kind", &self.kind).field("id", &self.id).finish_non_exhaustive()
    }
}

/// A text is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("this is not a token: {0}")]
pub struct NoToken(&'static str);

fn prefix(kind: TokenKind) -> &'static str {
    match kind {
        TokenKind::Join => "caisson-join",
        TokenKind::Api => "caisson-api",
    }
}

/// Bytes of chance.
///
/// # Errors
/// The system has none.
pub fn chance<const N: usize>() -> Result<[u8; N], NoChance> {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| NoChance)?;
    Ok(bytes)
}

/// The system gives no random numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the system gives no random numbers")]
pub struct NoChance;

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// SHA-256.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

impl Token {
    /// A new one.
    ///
    /// # Errors
    /// [`NoChance`].
    pub fn new(kind: TokenKind, pin: [u8; 32]) -> Result<Token, NoChance> {
        Ok(Token { kind, id: hex(&chance::<6>()?), secret: chance()?, pin })
    }

    /// Takes a text apart.
    ///
    /// # Errors
    /// [`NoToken`] says what is wrong without showing any of it.
    pub fn parse(text: &str) -> Result<Token, NoToken> {
        let parts: Vec<&str> = text.trim().split('.').collect();
        let [word, id, secret, pin] = parts[..] else { return Err(NoToken("it does not have four parts")) };
        let kind = [TokenKind::Join, TokenKind::Api].into_iter().find(|kind| prefix(*kind) == word);
        let kind = kind.ok_or(NoToken("it begins with neither caisson-join nor caisson-api"))?;
        let bytes = |part: &str| BASE64.decode(part).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        let secret = bytes(secret).ok_or(NoToken("its third part is damaged"))?;
        let pin = bytes(pin).ok_or(NoToken("its fourth part is damaged"))?;
        if id.len() != 12 || !id.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(NoToken("its second part is damaged"));
        }
        Ok(Token { kind, id: id.to_owned(), secret, pin })
    }

    /// Its text, told once.
    pub fn text(&self) -> String {
        format!("{}.{}.{}.{}", prefix(self.kind), self.id, BASE64.encode(self.secret), BASE64.encode(self.pin))
    }

    /// What is kept of its secret.
    pub fn hash(&self) -> String {
        hex(&sha256(&self.secret))
    }

    /// Whether this is the token of which `hash` was kept; takes as long whatever differs.
    pub fn is(&self, hash: &str) -> bool {
        aws_lc_rs::constant_time::verify_slices_are_equal(self.hash().as_bytes(), hash.as_bytes()).is_ok()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_survives_its_text_and_shows_nothing() {
        let token = Token::new(TokenKind::Join, [7; 32]).unwrap();
        let text = token.text();
        let back = Token::parse(&text).unwrap();
        assert!(back.is(&token.hash()) && back.pin == [7; 32] && back.id == token.id);
        assert!(!format!("{back:?}").contains(text.split('.').nth(2).unwrap()));
        let other = Token::new(TokenKind::Join, [7; 32]).unwrap();
        assert!(!other.is(&token.hash()) && other.id != token.id);
        for wrong in ["", "caisson-join", "caisson-join.a.b.c", &text[..text.len() - 3], &text.replace("join", "user")] {
            assert!(Token::parse(wrong).is_err(), "{wrong}");
        }
    }
}
