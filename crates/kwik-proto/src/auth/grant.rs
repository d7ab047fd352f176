//! Grants: what the primary issues and the client shows to a secondary.
//!
//! A grant is a PASETO v4.public token. Its footer is the issuer's public key in hexadecimal, so
//! that a secondary that trusts several primaries knows which key to verify with; nothing else is
//! read before the signature holds.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{AuthError, Fingerprint, Identity, PublicKey, hex, paseto};
use crate::limits::{CLOCK_SKEW, GRANT_LIFETIME, MAX_GRANT};
use crate::{PathId, SessionId};

/// The last second that a four-digit year can express.
const MAX_TIME: u64 = 253_402_300_799;

/// What a grant permits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrantClaims {
    /// The session to join.
    pub session: SessionId,
    /// The path to join it as; never the primary's.
    pub path: PathId,
    /// The secondary that may accept it.
    pub audience: Fingerprint,
    /// The client that may use it: its key of this session, as stated on path 0.
    pub client_key: Fingerprint,
}

/// A grant that was verified.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// What it permits.
    pub claims: GrantClaims,
    /// The primary that issued it.
    pub issuer: PublicKey,
    /// When it ends, without tolerance.
    pub expires: SystemTime,
}

impl Grant {
    /// Issues a token for `claims` that lives for [`GRANT_LIFETIME`] from `now`.
    #[must_use]
    pub fn issue(issuer: &Identity, claims: &GrantClaims, now: SystemTime) -> Bytes {
        let issued = seconds(now).min(MAX_TIME - GRANT_LIFETIME.as_secs());
        sign(issuer, claims, issued, issued + GRANT_LIFETIME.as_secs())
    }
}

/// Verifies a token as the secondary `audience`, which trusts the primaries `trusted`. Two wall
/// clocks may differ by [`CLOCK_SKEW`].
///
/// # Errors
/// What does not hold: [`AuthError::Malformed`], [`AuthError::UntrustedIssuer`],
/// [`AuthError::BadSignature`], [`AuthError::WrongAudience`], [`AuthError::Expired`] or
/// [`AuthError::NotYetValid`].
pub fn verify_grant(
    token: &[u8],
    trusted: &BTreeSet<Fingerprint>,
    audience: Fingerprint,
    now: SystemTime,
) -> Result<Grant, AuthError> {
    let (issuer, payload) = open(token, trusted)?;
    let payload = Payload::parse(&payload).ok_or(AuthError::Malformed("a grant lacks claims"))?;
    let Payload { claims, issued, expires, .. } = payload;
    if payload.issuer != issuer {
        return Err(AuthError::Malformed("a grant names another issuer than its signer"));
    }
    if claims.audience != audience {
        return Err(AuthError::WrongAudience { granted: claims.audience, own: audience });
    }
    if claims.path.is_primary() {
        return Err(AuthError::Malformed("a grant is for the primary path"));
    }
    let skew = CLOCK_SKEW.as_secs();
    let lifetime = expires.checked_sub(issued).filter(|&seconds| seconds > 0);
    if lifetime.is_none_or(|seconds| seconds > GRANT_LIFETIME.as_secs() + skew) {
        return Err(AuthError::Malformed("a grant's lifetime is out of bounds"));
    }
    let now = seconds(now);
    if issued > now.saturating_add(skew) {
        return Err(AuthError::NotYetValid);
    }
    if now > expires.saturating_add(skew) {
        return Err(AuthError::Expired);
    }
    Ok(Grant { claims, issuer, expires: UNIX_EPOCH + Duration::from_secs(expires) })
}

/// The signer, if trusted, and the payload that it signed.
fn open(token: &[u8], trusted: &BTreeSet<Fingerprint>) -> Result<(PublicKey, Vec<u8>), AuthError> {
    let malformed = || AuthError::Malformed("a grant is not a PASETO v4.public token of KWIK");
    if token.len() > MAX_GRANT {
        return Err(AuthError::Malformed("a grant is too long"));
    }
    let text = std::str::from_utf8(token).map_err(|_| malformed())?;
    let token = paseto::Token::parse(text).ok_or_else(malformed)?;
    let footer = std::str::from_utf8(&token.footer).map_err(|_| malformed())?;
    let issuer = hex::parse(footer).map(PublicKey).ok_or_else(malformed)?;
    let fingerprint = issuer.fingerprint();
    if !trusted.contains(&fingerprint) {
        return Err(AuthError::UntrustedIssuer(fingerprint));
    }
    Ok((issuer, token.verify(&issuer)?))
}

/// The signed part of a token; times are in seconds since 1970.
struct Payload {
    claims: GrantClaims,
    issuer: PublicKey,
    issued: u64,
    expires: u64,
}

impl Payload {
    /// None if a claim is absent or ill-formed.
    fn parse(json: &[u8]) -> Option<Self> {
        let all: Value = serde_json::from_slice(json).ok()?;
        let text = |name| all.get(name)?.as_str();
        let claims = GrantClaims {
            session: text("session")?.parse().ok()?,
            path: PathId(all.get("path")?.as_u64()?.try_into().ok()?),
            audience: text("aud")?.parse().ok()?,
            client_key: text("client_key")?.parse().ok()?,
        };
        let issuer = PublicKey(hex::parse(text("iss")?)?);
        Some(Self {
            claims,
            issuer,
            issued: parse_time(text("iat")?)?,
            expires: parse_time(text("exp")?)?,
        })
    }
}

/// Written by hand, in a fixed order, so that equal grants are equal bytes; no value needs escapes.
fn sign(issuer: &Identity, claims: &GrantClaims, issued: u64, expires: u64) -> Bytes {
    let GrantClaims { session, path, audience, client_key } = claims;
    let public = issuer.public_key();
    let (issued, expires) = (format_time(issued), format_time(expires));
    let payload = format!(
        "{{\"iss\":\"{public}\",\"aud\":\"{audience}\",\"iat\":\"{issued}\",\"exp\":\"{expires}\",\
         \"session\":\"{session}\",\"path\":{path},\"client_key\":\"{client_key}\"}}"
    );
    sign_payload(issuer, &payload)
}

fn sign_payload(issuer: &Identity, payload: &str) -> Bytes {
    let footer = issuer.public_key().to_string();
    paseto::sign(issuer, payload.as_bytes(), footer.as_bytes()).into()
}

/// Seconds since 1970; earlier times count as 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// At most [`MAX_TIME`] seconds since 1970, as RFC 3339 has them.
fn format_time(seconds: u64) -> String {
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok())
        .and_then(|time| time.format(&Rfc3339).ok())
        .expect("invariant: a time within the year 9999")
}

fn parse_time(text: &str) -> Option<u64> {
    OffsetDateTime::parse(text, &Rfc3339).ok()?.unix_timestamp().try_into().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    fn primary() -> Identity {
        Identity::from_seed([1; 32])
    }

    fn secondary() -> Fingerprint {
        Identity::from_seed([2; 32]).fingerprint()
    }

    fn claims() -> GrantClaims {
        GrantClaims {
            session: SessionId([3; 16]),
            path: PathId(4),
            audience: secondary(),
            client_key: Identity::from_seed([5; 32]).fingerprint(),
        }
    }

    fn trusted() -> BTreeSet<Fingerprint> {
        let others = [8, 9].map(|seed| Identity::from_seed([seed; 32]).fingerprint());
        others.into_iter().chain([primary().fingerprint()]).collect()
    }

    fn verify(token: &[u8], now: u64) -> Result<Grant, AuthError> {
        verify_grant(token, &trusted(), secondary(), at(now))
    }

    #[test]
    fn an_issued_grant_holds_for_its_lifetime_and_the_skew() {
        let token = Grant::issue(&primary(), &claims(), at(NOW));
        assert!(token.len() < MAX_GRANT / 2, "{} bytes", token.len());
        let grant = verify(&token, NOW).unwrap();
        let expires = at(NOW + 120);
        assert_eq!(grant, Grant { claims: claims(), issuer: primary().public_key(), expires });
        assert!(verify(&token, NOW - 30).is_ok());
        assert_eq!(verify(&token, NOW - 31), Err(AuthError::NotYetValid));
        assert!(verify(&token, NOW + 150).is_ok());
        assert_eq!(verify(&token, NOW + 151), Err(AuthError::Expired));
    }

    #[test]
    fn equal_grants_are_equal_bytes() {
        let issue = || Grant::issue(&primary(), &claims(), at(NOW));
        assert_eq!(issue(), issue());
    }

    #[test]
    fn clocks_out_of_range_do_not_panic() {
        for now in [at(MAX_TIME), at(MAX_TIME + 1), UNIX_EPOCH - Duration::from_secs(1)] {
            let token = Grant::issue(&primary(), &claims(), now);
            assert!(verify_grant(&token, &trusted(), secondary(), now).is_ok());
        }
    }

    #[test]
    fn an_untrusted_issuer_is_named() {
        let stranger = Identity::from_seed([6; 32]);
        let token = Grant::issue(&stranger, &claims(), at(NOW));
        let error = verify(&token, NOW).unwrap_err();
        assert_eq!(error, AuthError::UntrustedIssuer(stranger.fingerprint()));
        assert!(error.to_string().ends_with(&format!("--trust {}", stranger.fingerprint())));
        assert_eq!(error.code(), crate::Code::AuthFailed);
    }

    #[test]
    fn a_footer_cannot_borrow_a_trusted_key() {
        let stranger = Identity::from_seed([6; 32]);
        let forged = Grant::issue(&stranger, &claims(), at(NOW));
        let honest = Grant::issue(&primary(), &claims(), at(NOW));
        let cut = |token: &Bytes| token.iter().rposition(|&byte| byte == b'.').unwrap();
        let mixed = [&forged[..cut(&forged)], &honest[cut(&honest)..]].concat();
        assert_eq!(verify(&mixed, NOW), Err(AuthError::BadSignature));
    }

    #[test]
    fn a_foreign_audience_is_refused() {
        let audience = Identity::from_seed([7; 32]).fingerprint();
        let token = Grant::issue(&primary(), &GrantClaims { audience, ..claims() }, at(NOW));
        let error = AuthError::WrongAudience { granted: audience, own: secondary() };
        assert_eq!(verify(&token, NOW), Err(error));
    }

    #[test]
    fn a_trusted_signer_is_still_held_to_the_form() {
        let malformed = |token: &[u8]| matches!(verify(token, NOW), Err(AuthError::Malformed(_)));
        let issuer = primary();
        assert!(malformed(&sign(&issuer, &claims(), NOW, NOW + 151)));
        assert!(malformed(&sign(&issuer, &claims(), NOW, NOW)));
        assert!(malformed(&sign(&issuer, &claims(), NOW, NOW - 1)));
        let path = GrantClaims { path: PathId::PRIMARY, ..claims() };
        assert!(malformed(&sign(&issuer, &path, NOW, NOW + 120)));

        let good = Grant::issue(&issuer, &claims(), at(NOW));
        let payload = String::from_utf8(open(&good, &trusted()).unwrap().1).unwrap();
        assert!(verify(&sign_payload(&issuer, &payload), NOW).is_ok());
        for (from, to) in [
            (r#""path":4"#, r#""path":4294967296"#),
            (r#""path":4"#, r#""path":"4""#),
            (r#""path":4"#, r#""lane":4"#),
            ("03030303", "0303"),
            (r#""iat":"20"#, r#""iat":"19"#),
            (r#""iss":"8"#, r#""iss":"9"#),
            ("client_key", "client-key"),
            ("{", ""),
        ] {
            let altered = payload.replacen(from, to, 1);
            assert_ne!(payload, altered, "{from} occurs");
            assert!(malformed(&sign_payload(&issuer, &altered)), "{altered}");
        }
    }

    #[test]
    fn an_oversized_token_is_refused() {
        let long = sign_payload(&primary(), &"x".repeat(MAX_GRANT));
        assert_eq!(verify(&long, NOW), Err(AuthError::Malformed("a grant is too long")));
    }

    #[test]
    fn every_byte_of_a_token_counts() {
        let token = Grant::issue(&primary(), &claims(), at(NOW));
        for position in 0..token.len() {
            let mut forged = token.to_vec();
            forged[position] ^= 1;
            assert!(verify(&forged, NOW).is_err(), "byte {position}");
            assert!(verify(&token[..position], NOW).is_err(), "cut at {position}");
        }
        assert!(verify(&[&token[..], b"A"].concat(), NOW).is_err());
        assert!(verify(&[&token[..], b"="].concat(), NOW).is_err());
        assert!(verify(&[&token[..], b".AA"].concat(), NOW).is_err());
    }

    proptest! {
        #[test]
        fn forged_bytes_are_refused(position: proptest::sample::Index, mask in 1..=u8::MAX) {
            let token = Grant::issue(&primary(), &claims(), at(NOW));
            let mut forged = token.to_vec();
            forged[position.index(token.len())] ^= mask;
            prop_assert!(verify(&forged, NOW).is_err());
        }

        #[test]
        fn arbitrary_tokens_are_refused(body in "[A-Za-z0-9._=-]{0,200}", noise: Vec<u8>) {
            prop_assert!(verify(&noise, NOW).is_err());
            let token = format!("v4.public.{body}");
            prop_assert!(verify(token.as_bytes(), NOW).is_err());
        }
    }
}
