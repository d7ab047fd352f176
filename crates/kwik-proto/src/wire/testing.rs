//! What the tests of all decoders share.

use super::WireError;
use bytes::Bytes;

/// `input` cut into chunks of `sizes`, over and over.
pub(super) fn chunks(input: &[u8], sizes: &[usize]) -> Vec<Bytes> {
    let mut rest = Bytes::copy_from_slice(input);
    let mut found = Vec::new();
    for size in sizes.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        found.push(rest.split_to(rest.len().min(*size)));
    }
    found
}

/// All that `poll` gives until it waits for input.
pub(super) fn collect<T>(
    mut poll: impl FnMut() -> Result<Option<T>, WireError>,
) -> Result<Vec<T>, WireError> {
    std::iter::from_fn(|| poll().transpose()).collect()
}
