//! Payload files: what is written is found, and no damage gets through or panics.

use std::path::Path;

use sparkc_runtime as runtime;

mod support;

use runtime::program::encode;
use runtime::{Assets, FOOTER_BYTES, PayloadError, PayloadHead, find_payload, write_tail};
use tensor::Rng;

/// A file as the compiler writes it: stub, padding, weights, head, footer.
fn file() -> Vec<u8> {
    let (program, weights) = support::parts();
    let assets = Assets {
        chat_template: Some("{{ messages }}".to_string()),
        facts: vec![("fact".to_string(), "value".to_string())],
        ..Assets::default()
    };
    let mut bytes = b"not really a program".to_vec();
    bytes.resize(4096, 0);
    bytes.extend(&weights);
    let head = PayloadHead { program: encode(&program), assets };
    bytes.extend(write_tail(&head, 4096, weights.len() as u64, 0));
    bytes
}

fn find(directory: &Path, bytes: &[u8]) -> Result<runtime::Payload, PayloadError> {
    let path = directory.join("file");
    std::fs::write(&path, bytes).expect("writes");
    find_payload(&path)
}

#[test]
fn what_is_written_is_found() {
    let directory = tempfile::tempdir().expect("a directory");
    let payload = find(directory.path(), &file()).expect("is whole");
    let expected = support::decoder();
    assert_eq!(payload.program(), expected.program());
    assert_eq!(payload.weight_bytes(), expected.weight_bytes());
    assert_eq!(payload.assets().facts[0].1, "value");
}

#[test]
fn other_files_hold_no_model() {
    let directory = tempfile::tempdir().expect("a directory");
    for bytes in [&b""[..], b"short", &[0; 4096]] {
        let error = find(directory.path(), bytes).expect_err("is no payload");
        assert!(matches!(error, PayloadError::Missing), "{error}");
    }
    let absent = find_payload(&directory.path().join("absent"));
    assert!(matches!(absent, Err(PayloadError::Io(_))));
}

#[test]
fn every_change_of_head_or_footer_is_an_error() {
    let directory = tempfile::tempdir().expect("a directory");
    let whole = file();
    let (_, weights) = support::parts();
    let head = 4096 + weights.len();
    let mut rng = Rng::new(5);
    for round in 0..600 {
        let mut bytes = whole.clone();
        // Half of the changes hit the footer, which is small.
        let range = if round % 2 == 0 { whole.len() - FOOTER_BYTES } else { head };
        let at = range + rng.below(whole.len() - range);
        bytes[at] ^= 1 + rng.below(255) as u8;
        assert!(find(directory.path(), &bytes).is_err(), "byte {at} of {} changed", whole.len());
    }
    for cut in [1, FOOTER_BYTES, FOOTER_BYTES + 1, whole.len() - head, whole.len() - 1] {
        assert!(find(directory.path(), &whole[..whole.len() - cut]).is_err(), "cut by {cut}");
    }
}
