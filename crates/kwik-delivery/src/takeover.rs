//! What an earlier fetch left is verified before it counts: its process may have been killed, its
//! machine may have lost power, and somebody may have written to the file since.

use std::ops::Range;

use crate::{
    FetchError, Output, PartFile, Progress, Verifier,
    block::{Block, joined},
    limits::{GROUP_SIZE, WRITE_BLOCK},
    pages::Pages,
    repair::Mender,
};

/// Verifies the bytes that `output` claims to have: how many they are. Those that are the object's
/// count as verified from here on, the rest as missing.
pub(crate) async fn verify_claims(
    mender: &Mender,
    pages: &mut Pages,
    output: &Output,
    progress: &Progress,
) -> Result<u64, FetchError> {
    let Some(part) = output.part() else { return Ok(0) };
    let (claimed, size) = (part.claimed(), mender.manifest.size);
    let (mut checked, all) = (0, claimed.bytes());
    progress.on_checked(0, all);
    for range in claimed.iter() {
        let mut next = range.start.next_multiple_of(GROUP_SIZE);
        let end = if range.end == size { size } else { range.end / GROUP_SIZE * GROUP_SIZE };
        while next < end {
            let verifier = pages.verifier(mender, next).await?;
            let block = next..(next / BLOCK * BLOCK + BLOCK).min(end);
            next = block.end;
            checked += block.end - block.start;
            output
                .offload(move |output| {
                    if let Some(part) = output.part() {
                        admit_good(part, block, &verifier);
                    }
                })
                .await;
            progress.on_checked(checked, all);
        }
    }
    part.drop_claims();
    Ok(all)
}

const BLOCK: u64 = WRITE_BLOCK as u64;

/// Admits the groups of a block that verify.
fn admit_good(part: &PartFile, range: Range<u64>, verifier: &Verifier) {
    let length = usize::try_from(range.end - range.start).unwrap_or(WRITE_BLOCK);
    let mut data = vec![0; length];
    // What cannot be read is fetched again, as what is wrong.
    if part.read_at(range.start, &mut data).is_err() {
        return;
    }
    let mut start = range.start;
    for corrupt in joined(&Block::new(range.start, data).corrupt(verifier)) {
        part.admit(start..corrupt.start);
        start = corrupt.end;
    }
    part.admit(start..range.end);
}
