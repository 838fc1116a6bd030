//! Peers that lie, stall, babble, come from elsewhere or were excluded: each is refused alone, and the round goes on.

use std::{io::Cursor, time::Duration};

use semisam_shared::{
    ids::{Digest, RoundNumber},
    issue::{self, Role},
    message::{Request, Response},
    receipt::Receipt,
    round::Rejection,
};
use tokio::time::timeout;

use crate::rig::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lies_are_refused_and_the_round_goes_on() {
    let consortium = Consortium::new(1, 2, 3600);
    let nodes = ["north", "south"].map(|name| consortium.enrol(name));
    let running = consortium.serve(false);
    let silent = nodes[0].dial(running.address).await.expect("connected");
    assert_eq!(ask(&silent, &Request::Plan).await, Response::Rejected(Rejection::NotJoined), "hello comes first");
    let north = nodes[0].connect(running.address).await;
    let south = nodes[1].connect(running.address).await;
    nodes[0].train(&north).await;
    let update = nodes[0].update(1);
    let good = nodes[0].receipt(1, &update);
    let lie = Receipt { payload: Digest::of(b"lie"), ..good };
    assert_eq!(Node::send(&north, lie, &update).await, Sent::Rejected(Rejection::WrongDigest));
    let refused = [
        (Receipt { bytes: 4, ..good }, Rejection::WrongLength { expected: BYTES, found: 4 }),
        (Receipt { bytes: u64::MAX, ..good }, Rejection::WrongLength { expected: BYTES, found: u64::MAX }),
        (Receipt { round: RoundNumber(7), ..good }, Rejection::RoundNotOpen(RoundNumber(7))),
        (Receipt { plan: Digest::ZERO, ..good }, Rejection::OtherPlan(Digest::ZERO)),
    ];
    for (receipt, expected) in refused {
        assert_eq!(Node::send(&north, receipt, &update).await, Sent::Rejected(expected));
    }
    let stolen = Node::send(&south, good, &update).await;
    assert!(matches!(stolen, Sent::Rejected(Rejection::OutOfOrder(_))), "{stolen:?}");
    let babble = timeout(SOON, north.ask::<_, Response>(&(99_u32, "babble".to_owned()))).await.expect("soon");
    assert!(babble.is_err(), "{babble:?}");
    let secret = Request::Fetch { blob: good.payload, offset: 0 };
    assert!(matches!(nodes[0].submit(&north, 1).await, Sent::Accepted(_)));
    assert_eq!(ask(&south, &secret).await, Response::Rejected(Rejection::NoSuchBlob(good.payload)));
    assert!(matches!(nodes[1].submit(&south, 1).await, Sent::Accepted(_)));
    let (code, _) = consortium.command(&["status"]);
    assert_eq!(code, 0);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_newest_upload_of_a_site_wins() {
    let consortium = Consortium::new(1, 1, 3600);
    let node = consortium.enrol("north");
    let running = consortium.serve(false);
    let connection = node.connect(running.address).await;
    node.train(&connection).await;
    let update = node.update(1);
    let receipt = node.receipt(1, &update);
    let (mut stalled, announced) = Node::announce(&connection, receipt).await;
    assert_eq!(announced, Ok(0));
    stalled.send_chunks(Cursor::new(&update), 0, 1 << 20).await.expect("sent");
    let other = node.connect(running.address).await;
    let sent = timeout(Duration::from_secs(15), Node::send(&other, receipt, &update)).await;
    assert_eq!(sent.expect("at once, not when the first one times out"), Sent::Accepted(receipt));
    assert!(timeout(SOON, stalled.receive::<Response>()).await.expect("soon").is_err(), "the stalled one is ended");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_site_of_another_authority_is_refused_and_nobody_else_notices() {
    let consortium = Consortium::new(1, 1, 3600);
    let node = consortium.enrol("north");
    let (files, site) = consortium.keys("stranger");
    let now = semisam_shared::clock::now();
    let authority = issue::new_authority("elsewhere", 30, now).expect("made");
    let request = std::fs::read_to_string(consortium.path("stranger/request.csr")).expect("read");
    let pem = issue::sign_request(&authority.certificate_pem, &authority.key_pem, &request, &Role::Site, 7, now);
    std::fs::write(&files.certificate, pem.expect("signed")).expect("written");
    let stranger = Node { files, site, name: "stranger".into(), plan: node.plan };
    let running = consortium.serve(false);
    assert!(stranger.dial(running.address).await.is_err());
    let connection = node.connect(running.address).await;
    node.train(&connection).await;
    assert!(matches!(node.submit(&connection, 1).await, Sent::Accepted(_)));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exclusion_takes_effect_on_live_connections() {
    let consortium = Consortium::new(1, 2, 3600);
    let nodes = ["north", "south", "west"].map(|name| consortium.enrol(name));
    let running = consortium.serve(false);
    let mut connections = Vec::new();
    for node in &nodes {
        connections.push(node.connect(running.address).await);
    }
    nodes[0].train(&connections[0]).await;
    assert!(matches!(nodes[0].submit(&connections[0], 1).await, Sent::Accepted(_)));
    let (code, revoked) = consortium.command(&["revoke", "north"]);
    assert_eq!((code, revoked["site"].as_str()), (0, Some(nodes[0].site.to_string().as_str())));
    let shut_out = async {
        while let Ok(Response::Task(_)) = connections[0].ask(&Request::Task).await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(10), shut_out).await.expect("within a second or so, but machines are busy");
    assert!(nodes[0].dial(running.address).await.is_err(), "the handshake is refused");
    for number in [1, 2] {
        assert!(matches!(nodes[number].submit(&connections[number], 1).await, Sent::Accepted(_)));
    }
    let finished = async {
        loop {
            let (_, status) = consortium.command(&["status"]);
            if status["state"] == "finished" {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let status = timeout(SOON, finished).await.expect("soon");
    let north = status["sites"].as_array().expect("sites").iter().find(|site| site["name"] == "north");
    let north = north.expect("listed");
    assert_eq!((north["presence"].as_str(), north["contributed"].as_u64()), (Some("revoked"), Some(0)));
    assert_eq!(consortium.command(&["revoke", "nobody"]).0, 1);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_server_on_the_same_folder_is_told_to_try_again() {
    let consortium = Consortium::new(1, 1, 3600);
    let running = consortium.serve(false);
    let second = || consortium.command(&["serve", "--listen", "127.0.0.1:0"]).0;
    assert_eq!(std::thread::scope(|scope| scope.spawn(second).join().expect("no panic")), 75);
    assert!(consortium.folder().address().exists(), "the first one's address stays");
    running.stop().await;
}
