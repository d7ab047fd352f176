//! Ed25519 identities (RFC 8032) and the names of their keys.

use std::fmt;
use std::str::FromStr;

use ring::digest::{SHA256, digest};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use zeroize::Zeroizing;

use super::{AuthError, hex};

/// What precedes the seed in a PKCS#8 v1 private key (RFC 8410 section 7).
const PKCS8_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// What precedes the key in a SubjectPublicKeyInfo (RFC 8410 section 4).
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];

/// A key pair: a server's persistent one, or a client's of one session.
///
/// The seed, and what is made of it here, is overwritten when it is dropped. What `ring` keeps to
/// sign with is not: it offers no way.
pub struct Identity {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
    public: PublicKey,
}

impl Identity {
    /// From 32 secret random bytes.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        let pair = key_pair(&seed);
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { seed, pair, public: PublicKey(public) }
    }

    /// The public half.
    #[must_use]
    pub const fn public_key(&self) -> PublicKey {
        self.public
    }

    /// The name of the public half.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.public.fingerprint()
    }

    /// Signs `message`; equal messages get equal signatures.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(message).as_ref());
        Signature(signature)
    }

    /// The private key as PKCS#8 v1 DER, for the TLS certificate. Secret.
    #[must_use]
    pub fn pkcs8_der(&self) -> Zeroizing<Vec<u8>> {
        [&PKCS8_PREFIX[..], &self.seed[..]].concat().into()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).finish_non_exhaustive()
    }
}

fn key_pair(seed: &[u8; 32]) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed).expect("invariant: every 32-byte seed makes a key")
}

/// An Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// Checks that this key signed `message`.
    ///
    /// # Errors
    /// [`AuthError::BadSignature`], also when `signature` is not 64 bytes.
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), AuthError> {
        UnparsedPublicKey::new(&ED25519, &self.0)
            .verify(message, signature)
            .map_err(|_| AuthError::BadSignature)
    }

    /// The key as SubjectPublicKeyInfo DER, as a certificate contains it.
    #[must_use]
    pub fn spki_der(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0].concat()
    }

    /// The name of this key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of_spki(&self.spki_der())
    }
}

impl TryFrom<&[u8]> for PublicKey {
    type Error = AuthError;
    fn try_from(bytes: &[u8]) -> Result<Self, AuthError> {
        bytes.try_into().map(Self).map_err(|_| AuthError::Malformed("a public key is 32 bytes"))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; 64]);

impl AsRef<[u8]> for Signature {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

/// The name of a public key of any kind: SHA-256 of its SubjectPublicKeyInfo, as pins are in
/// RFC 7469. Its text is 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub [u8; 32]);

impl Fingerprint {
    /// Of the DER of a SubjectPublicKeyInfo.
    #[must_use]
    pub fn of_spki(der: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, der).as_ref());
        Self(hash)
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        hex::write(&self.0, f)
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Fingerprint {
    type Err = InvalidFingerprint;
    fn from_str(text: &str) -> Result<Self, InvalidFingerprint> {
        hex::parse(text).map(Self).ok_or(InvalidFingerprint)
    }
}

/// A text that is no fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a fingerprint is 64 hexadecimal digits, as a server prints it when it starts")]
pub struct InvalidFingerprint;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc_8032_test_1() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let identity = Identity::from_seed(hex::parse(seed).unwrap());
        assert_eq!(identity.public_key().to_string(), public);
        let signature = identity.sign(b"");
        assert_eq!(&format!("{signature:?}")[..16], "e5564300c360ac72");
        assert_eq!(identity.public_key().verify(b"", signature.as_ref()), Ok(()));
    }

    #[test]
    fn pkcs8_is_what_tls_libraries_read() {
        let identity = Identity::from_seed([7; 32]);
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(&identity.pkcs8_der()).unwrap();
        assert_eq!(pair.public_key().as_ref(), identity.public_key().0);
    }

    #[test]
    fn fingerprint_is_the_hash_of_the_spki() {
        // The key of RFC 8410 section 10.1; `openssl pkey -pubin -outform der | sha256sum`.
        let key = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
        let key = PublicKey(hex::parse(key).unwrap());
        assert_eq!(key.spki_der().len(), 44);
        let hash = "a1e9156054e04fac899ae9f275132cdc07a5dbc4ea2c2ad3a1ffc6e0d253681f";
        assert_eq!(key.fingerprint().to_string(), hash);
    }

    #[test]
    fn fingerprints_round_trip_in_either_case() {
        let print = Identity::from_seed([1; 32]).fingerprint();
        let text = print.to_string();
        assert_eq!(text.parse(), Ok(print));
        assert_eq!(text.to_uppercase().parse(), Ok(print));
        for bad in ["", "ab", &text[1..], &format!("+{}", &text[1..]), &"é".repeat(32)] {
            assert_eq!(bad.parse::<Fingerprint>(), Err(InvalidFingerprint));
        }
    }

    #[test]
    fn altered_messages_and_signatures_fail() {
        let identity = Identity::from_seed([1; 32]);
        let signature = identity.sign(b"text");
        let key = identity.public_key();
        assert_eq!(key.verify(b"Text", signature.as_ref()), Err(AuthError::BadSignature));
        assert_eq!(key.verify(b"text", &signature.0[..63]), Err(AuthError::BadSignature));
        let other = Identity::from_seed([2; 32]).public_key();
        assert_eq!(other.verify(b"text", signature.as_ref()), Err(AuthError::BadSignature));
        assert!(matches!(PublicKey::try_from(&[0; 31][..]), Err(AuthError::Malformed(_))));
    }

    #[test]
    fn secrets_that_leave_are_overwritten_when_dropped() {
        // By their types: what is freed cannot be looked at.
        fn overwritten<T: zeroize::ZeroizeOnDrop>(_: &T) {}
        let identity = Identity::from_seed([1; 32]);
        overwritten(&identity.seed);
        overwritten(&identity.pkcs8_der());
    }

    #[test]
    fn debug_hides_the_secret() {
        let identity = Identity::from_seed([0xab; 32]);
        let text = format!("{identity:?}");
        assert!(!text.contains("abab") && !text.contains("171, 171"), "{text}");
        assert!(text.contains(&identity.public_key().to_string()));
    }
}
