//! Messages and blobs: whole, interrupted, and hostile.

use std::{fs, io::Cursor, time::Duration};

use proptest::prelude::*;

use super::*;
use crate::{codec::MAX_MESSAGE, ids::Digest, transport::chunks::ChunkHeader};

const SIZE: usize = 20 << 20;

/// Bytes that do not repeat within a chunk.
fn content(size: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut bytes = Vec::with_capacity(size + 8);
    while bytes.len() < size {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        bytes.extend((state >> 8).to_le_bytes());
    }
    bytes.truncate(size);
    bytes
}

/// Waits until a file has more than `size` bytes.
async fn grown(path: &std::path::Path, size: u64) -> u64 {
    loop {
        match fs::metadata(path) {
            Ok(metadata) if metadata.len() > size => return metadata.len(),
            _ => tokio::time::sleep(Duration::from_millis(1)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_go_there_and_back_and_giants_do_not() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let connection = server.dial(&consortium.site("hospital-messages").0).await.unwrap();
    for length in [0, 1, MAX_MESSAGE - 200] {
        let text = "x".repeat(length);
        match echo(&connection, &text).await.unwrap() {
            Answer::Echo { text: back, .. } => assert_eq!(back, text),
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(echo(&connection, &"x".repeat(MAX_MESSAGE)).await, Err(TransportError::Codec(_))));

    let refused = async |bytes: Vec<u8>| {
        let mut exchange = connection.open().await.unwrap();
        exchange.write(bytes, "writing").await.unwrap();
        exchange.finish().await.unwrap();
        match exchange.receive().await.unwrap() {
            Answer::Failed(text) => text,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused(u32::MAX.to_le_bytes().to_vec()).await.contains("a frame of 4294967295 bytes"));
    assert!(refused((MAX_MESSAGE as u32 + 1).to_le_bytes().to_vec()).await.contains("65536 is the limit"));
    assert!(refused(vec![3, 0]).await.contains("ended after 2 of 4 bytes"));
    assert!(refused(vec![9, 0, 0, 0, 1]).await.contains("ended after 1 of 9 bytes"));
    assert!(refused(vec![4, 0, 0, 0, 99, 0, 0, 0]).await.contains("not a message of this protocol"));
    let mut twice = [12, 0, 0, 0].to_vec(); // Echo of an empty text, and one byte too many
    twice.extend([0; 13]);
    assert!(refused(twice).await.contains("bytes follow"));
    echo(&connection, "still there").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_download_that_was_cut_resumes() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let (files, _) = consortium.site("hospital-down");
    let bytes = content(SIZE + 4321);
    fs::write(consortium.path("model"), &bytes).unwrap();
    let part = consortium.path("model.part");

    let get = async |connection: &Connection, from: u64| {
        let mut exchange = connection.open().await.unwrap();
        exchange.send(&Ask::Get { file: "model".to_owned(), from }).await.unwrap();
        match exchange.receive().await.unwrap() {
            Answer::Total(total) => exchange.receive_file(&part, from, total).await,
            other => panic!("{other:?}"),
        }
    };
    let connection = server.dial(&files).await.unwrap();
    let (failed, ()) = tokio::join!(get(&connection, 0), async {
        grown(&part, 3 << 20).await;
        connection.close();
    });
    assert!(matches!(failed.unwrap_err(), TransportError::Closed));
    let have = fs::metadata(&part).unwrap().len();
    assert!(have > 3 << 20 && have < bytes.len() as u64, "{have}");
    assert_eq!(fs::read(&part).unwrap(), bytes[..have as usize], "what is there is right");

    let connection = server.dial(&files).await.unwrap();
    assert_eq!(get(&connection, have).await.unwrap(), bytes.len() as u64 - have);
    assert_eq!(Digest::of(&fs::read(&part).unwrap()), Digest::of(&bytes));
    // what is there beyond the offset is dropped; nothing to send is fine; a gap is not
    assert_eq!(get(&connection, have).await.unwrap(), bytes.len() as u64 - have);
    assert_eq!(get(&connection, bytes.len() as u64).await.unwrap(), 0);
    assert_eq!(Digest::of(&fs::read(&part).unwrap()), Digest::of(&bytes));
    fs::write(&part, b"short").unwrap();
    assert!(matches!(get(&connection, 6).await, Err(TransportError::ResumeOffset { from: 6, have: 5, .. })));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_was_cut_resumes() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let (files, _) = consortium.site("hospital-up");
    let bytes = content(SIZE + 1234);
    let (total, part) = (bytes.len() as u64, consortium.path("update.part"));
    let put = async |connection: &Connection, from: u64| {
        let mut exchange = connection.open().await?;
        exchange.send(&Ask::Put { file: "update.part".to_owned(), from, total }).await?;
        exchange.send_chunks(Cursor::new(&bytes), from, total).await?;
        exchange.finish().await?;
        exchange.receive::<Answer>().await
    };
    let connection = server.dial(&files).await.unwrap();
    let (failed, ()) = tokio::join!(put(&connection, 0), async {
        grown(&part, 3 << 20).await;
        connection.close();
    });
    assert!(matches!(failed.unwrap_err(), TransportError::Closed));

    let connection = server.dial(&files).await.unwrap();
    let mut have = 0;
    loop {
        // the server may still be writing what came before the cut
        tokio::time::sleep(Duration::from_millis(200)).await;
        match connection.ask(&Ask::Have { file: "update.part".to_owned() }).await.unwrap() {
            Answer::Total(now) if now == have => break,
            Answer::Total(now) => have = now,
            other => panic!("{other:?}"),
        }
    }
    assert!(have > 3 << 20 && have < total, "{have}");
    assert_eq!(put(&connection, have).await.unwrap(), Answer::Total(total));
    assert_eq!(Digest::of(&fs::read(&part).unwrap()), Digest::of(&bytes));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_source_that_is_too_short_fails_at_the_sender() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let connection = server.dial(&consortium.site("hospital-short").0).await.unwrap();
    let mut exchange = connection.open().await.unwrap();
    exchange.send(&Ask::Put { file: "short".to_owned(), from: 0, total: 100 }).await.unwrap();
    let error = exchange.send_chunks(Cursor::new([0; 99]), 0, 100).await.unwrap_err();
    assert!(matches!(error, TransportError::File { what: "read", .. }), "{error}");
    assert!(matches!(exchange.send_chunks(Cursor::new([0; 9]), 5, 4).await, Err(TransportError::ResumeOffset { .. })));
    exchange.finish().await.unwrap();
    match exchange.receive().await.unwrap() {
        Answer::Failed(text) => assert!(text.contains("ended after 0 of 100 bytes"), "{text}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hostile_chunks_are_refused_and_leave_no_trace() {
    let consortium = Consortium::new("Consortium");
    let server = Server::plain(&consortium);
    let connection = server.dial(&consortium.site("hospital-hostile").0).await.unwrap();
    let header = |offset, length| ChunkHeader { offset, length }.to_bytes().to_vec();
    let with = |mut bytes: Vec<u8>, more: usize| {
        bytes.extend(vec![7; more]);
        bytes
    };
    let cases = [
        (header(1, 10), "a chunk begins at offset 1, 0 is next", 0),
        (header(u64::MAX, 10), "0 is next", 0),
        (header(0, 0), "a chunk of 0 bytes", 0),
        (header(0, MAX_CHUNK as u32 + 1), "a chunk of 1048577 bytes", 0),
        (header(0, u32::MAX), "a chunk of 4294967295 bytes", 0),
        (header(0, 101), "a chunk ends at 101, beyond the 100 bytes", 0),
        (with(header(0, 10), 9), "ended after 9 of 10 bytes", 0),
        (with(header(0, 10), 15), "ended after 10 of 100 bytes", 10),
        ([with(header(0, 60), 60), with(header(60, 41), 41)].concat(), "beyond the 100 bytes", 60),
        ([with(header(0, 60), 60), with(header(0, 40), 40)].concat(), "begins at offset 0, 60 is next", 60),
        (with(header(0, 60), 60), "ended after 60 of 100 bytes while receiving a blob", 60),
        (with(header(0, 100), 101), "bytes follow the end", 100),
    ];
    for (number, (bytes, expected, stored)) in cases.into_iter().enumerate() {
        let file = format!("hostile-{number}");
        let mut exchange = connection.open().await.unwrap();
        exchange.send(&Ask::Put { file: file.clone(), from: 0, total: 100 }).await.unwrap();
        exchange.write(bytes, "writing").await.unwrap();
        let _ = exchange.finish().await; // the server may have stopped reading
        match exchange.receive().await.unwrap() {
            Answer::Failed(text) => assert!(text.contains(expected), "case {number}: {text}"),
            other => panic!("case {number}: {other:?}"),
        }
        assert_eq!(fs::metadata(consortium.path(&file)).unwrap().len(), stored, "case {number}");
    }
    echo(&connection, "still there").await.unwrap();
}

proptest! {
    #[test]
    fn a_chunk_header_is_read_back_or_refused(bytes: [u8; 12], next: u64, total: u64) {
        if let Ok(header) = ChunkHeader::parse(bytes, next, total) {
            prop_assert_eq!(header.to_bytes(), bytes);
            prop_assert_eq!(header.offset, next);
            prop_assert!(u128::from(next) + u128::from(header.length) <= u128::from(total));
        }
    }

    #[test]
    fn only_the_next_chunk_within_the_blob_is_taken(next in 0_u64..1 << 40, length in 1_u32..=1 << 20, spare in 0_u64..1 << 40) {
        let total = next + u64::from(length) + spare;
        let header = ChunkHeader { offset: next, length };
        prop_assert_eq!(ChunkHeader::parse(header.to_bytes(), next, total).unwrap(), header);
        prop_assert!(ChunkHeader::parse(header.to_bytes(), next + 1, total).is_err());
        prop_assert!(ChunkHeader::parse(header.to_bytes(), next, total - spare - 1).is_err());
    }
}

#[test]
fn the_bytes_of_a_chunk_header_are_golden() {
    let header = ChunkHeader { offset: 0x0102_0304_0506_0708, length: 0x000f_0a0b };
    assert_eq!(header.to_bytes(), [8, 7, 6, 5, 4, 3, 2, 1, 0x0b, 0x0a, 0x0f, 0]);
}
