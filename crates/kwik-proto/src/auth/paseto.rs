//! PASETO v4.public tokens: a payload and a footer under an Ed25519 signature.
//!
//! The format is a dozen lines beside the signature, which is `ring`'s as everywhere else. A
//! library for it would bring a second implementation of Ed25519.

use data_encoding::BASE64URL_NOPAD as BASE64;

use super::{AuthError, Identity, PublicKey};

const HEADER: &str = "v4.public.";
const SIGNATURE: usize = 64;

/// A token whose form is right. Its signature is not checked yet.
#[derive(Debug)]
pub(super) struct Token {
    payload: Vec<u8>,
    signature: [u8; SIGNATURE],
    /// Whoever made the token says so; empty when there is none.
    pub(super) footer: Vec<u8>,
}

impl Token {
    /// None when `text` is no such token, or not in its one valid spelling.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let rest = text.strip_prefix(HEADER)?;
        let (body, footer) = match rest.split_once('.') {
            Some((_, "")) => return None,
            Some((body, footer)) => (body, BASE64.decode(footer.as_bytes()).ok()?),
            None => (rest, Vec::new()),
        };
        let mut payload = BASE64.decode(body.as_bytes()).ok()?;
        let at = payload.len().checked_sub(SIGNATURE)?;
        let signature = payload.split_off(at).try_into().ok()?;
        Some(Self { payload, signature, footer })
    }

    /// The payload, once `key` has signed it and the footer.
    pub(super) fn verify(self, key: &PublicKey) -> Result<Vec<u8>, AuthError> {
        key.verify(&signed(&self.payload, &self.footer), &self.signature)?;
        Ok(self.payload)
    }
}

/// A token of `issuer`.
pub(super) fn sign(issuer: &Identity, payload: &[u8], footer: &[u8]) -> String {
    let signature = issuer.sign(&signed(payload, footer));
    let mut token = HEADER.to_owned();
    BASE64.encode_append(&[payload, &signature.0].concat(), &mut token);
    if !footer.is_empty() {
        token.push('.');
        BASE64.encode_append(footer, &mut token);
    }
    token
}

/// What is signed: header, payload, footer and an empty assertion, each behind its length, so that
/// no two tokens come to the same bytes (PASETO's PAE).
fn signed(payload: &[u8], footer: &[u8]) -> Vec<u8> {
    let pieces = [HEADER.as_bytes(), payload, footer, b""];
    let mut message = (pieces.len() as u64).to_le_bytes().to_vec();
    for piece in pieces {
        message.extend((piece.len() as u64).to_le_bytes());
        message.extend(piece);
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::hex;

    /// Seed and public key of PASETO's test vectors 4-S-1 and 4-S-2.
    const SEED: &str = "b4cbfb43df4ce210727d953e4a713307fa19bb7d9f85041438d9e11b942a3774";
    const PUBLIC: &str = "1eb9dbbbbc047c03fd70604e0071f0987e16b28b757225c11f00415d0e20b1a2";
    const PAYLOAD: &str =
        r#"{"data":"this is a signed message","exp":"2022-01-01T00:00:00+00:00"}"#;
    const BODY: &str = "eyJkYXRhIjoidGhpcyBpcyBhIHNpZ25lZCBtZXNzYWdlIiwiZXhwIjoiMjAyMi0wMS0wMVQw\
                        MDowMDowMCswMDowMCJ9";
    const PLAIN: &str =
        "bg_XBBzds8lTZShVlwwKSgeKpLT3yukTw6JUz3W4h_ExsQV-P0V54zemZDcAxFaSeef1QlXEFtkqxT1ciiQEDA";
    const FOOTER: &str = r#"{"kid":"zVhMiPBP9fRf2snEcT7gFTioeA9COcNy9DfgL1W60haN"}"#;
    const WITH_FOOTER: &str = concat!(
        "v3Jt8mx_TdM2ceTGoqwrh4yDFn0XsHvvV_D0DtwQxVrJEBMl0F2caAdgnpKlt4p7xBnx1HcO-SPo8FPp214HDw",
        ".eyJraWQiOiJ6VmhNaVBCUDlmUmYyc25FY1Q3Z0ZUaW9lQTlDT2NOeTlEZmdMMVc2MGhhTiJ9"
    );

    fn identity() -> Identity {
        Identity::from_seed(hex::parse(SEED).unwrap())
    }

    #[test]
    fn tokens_are_those_of_the_specification() {
        assert_eq!(identity().public_key().to_string(), PUBLIC);
        for (footer, end) in [("", PLAIN), (FOOTER, WITH_FOOTER)] {
            let token = sign(&identity(), PAYLOAD.as_bytes(), footer.as_bytes());
            assert_eq!(token, format!("{HEADER}{BODY}{end}"));
            let token = Token::parse(&token).unwrap();
            assert_eq!(token.footer, footer.as_bytes());
            assert_eq!(token.verify(&identity().public_key()).unwrap(), PAYLOAD.as_bytes());
        }
    }

    #[test]
    fn other_spellings_and_kinds_are_refused() {
        let good = sign(&identity(), PAYLOAD.as_bytes(), FOOTER.as_bytes());
        assert!(Token::parse(&good).is_some());
        let short = BASE64.encode(&[0; SIGNATURE - 1]);
        for bad in [
            good.replacen("v4", "v3", 1),
            good.replacen("public", "local", 1),
            format!("{good}="),
            format!("{good}."),
            good.replacen('_', "/", 1),
            // The last character has bits that say nothing.
            format!("{HEADER}{BODY}{}B", &PLAIN[..PLAIN.len() - 1]),
            format!("{HEADER}{short}"),
            format!("{HEADER}{BODY}{PLAIN}."),
            String::new(),
        ] {
            assert!(Token::parse(&bad).is_none(), "{bad}");
        }
    }
}
